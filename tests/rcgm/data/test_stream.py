import itertools
import pickle

import pytest
import torch
from torch.utils.data import Dataset

from rcgm.data import BatchStream, DataInfo, InMemoryDataset
from rcgm.distributed.shares import Share

SIZE = 50


class Lazy(Dataset):
    """Sample i is [i, i]; no `info`, no `take`: what anybody may write."""

    def __init__(self, label=lambda index: index % 3, size=SIZE):
        self.label = label
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.full((2,), float(index)), self.label(index)


class Noisy(Lazy):
    def augmented(self, index, generator):
        return torch.full((2,), float(index)) + torch.rand(2, generator=generator), self.label(index)


def modulo_three(index):
    return index % 3


def in_memory():
    samples = torch.arange(SIZE, dtype=torch.float32)[:, None].expand(-1, 2).contiguous()
    return InMemoryDataset(samples, torch.arange(SIZE) % 3, DataInfo((2,), 3, "points"))


def first(stream, count):
    return list(itertools.islice(stream, count))


def same(batches, others):
    assert len(batches) == len(others)
    for (x, labels), (other, other_labels) in zip(batches, others, strict=True):
        assert torch.equal(x, other)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize(
    "dataset", [in_memory(), Lazy(modulo_three), Noisy(modulo_three)], ids=["memory", "lazy", "noisy"]
)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_resumes_exactly(dataset, workers, world_size):
    rank = world_size - 1
    # Four batches an epoch: the steps cross three of its ends.
    whole = first(BatchStream(dataset, 12, seed=7, rank=rank, world_size=world_size), 14)
    for start in (0, 3, 4, 9):
        resumed = BatchStream(dataset, 12, 7, start, workers, rank=rank, world_size=world_size)
        same(first(resumed, 14 - start), whole[start:])


def test_iterating_twice_begins_twice_at_the_start_step():
    stream = BatchStream(in_memory(), 12, seed=7, start_step=5)
    same(first(stream, 3), first(stream, 3))
    same(first(stream, 3), [stream[5], stream[6], stream[7]])


@pytest.mark.parametrize("dataset", [in_memory(), Noisy(modulo_three)], ids=["memory", "noisy"])
@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (3, 2), (4, 1), (5, 2), (7, 1), (2, 5), (1, 7)])
def test_ranks_share_the_batch_of_one_process(dataset, world_size, parts):
    """Each micro-batch of a rank holds the rows that its share has of what is drawn for the whole batch."""
    whole = BatchStream(dataset, 12, seed=3)
    ranks = [
        BatchStream(dataset, 12, seed=3, rank=rank, world_size=world_size, micro_batches=parts)
        for rank in range(world_size)
    ]
    for step in range(9):
        x, labels = whole[step]
        for rank, stream in enumerate(ranks):
            own_x, own_labels = stream[step]
            for part in range(parts):
                share = Share(12, rank, world_size, part, parts)
                assert torch.equal(own_x[part::parts], share.of(x))
                if labels is not None:
                    assert torch.equal(own_labels[part::parts], share.of(labels))


def test_each_epoch_visits_no_sample_twice_and_drops_the_rest():
    stream = BatchStream(in_memory(), 12, seed=0)
    assert stream.steps_per_epoch == 4
    epochs = [torch.cat([stream.indices(4 * epoch + step) for step in range(4)]) for epoch in range(30)]
    assert all(len(epoch.unique()) == 48 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    # What one epoch drops, another visits.
    assert len(torch.cat(epochs).unique()) == SIZE


def test_an_epoch_that_divides_evenly_visits_everything():
    stream = BatchStream(in_memory(), 10, seed=0)
    for epoch in range(3):
        visited = torch.cat([stream[5 * epoch + step][0][:, 0] for step in range(5)])
        assert visited.long().sort().values.tolist() == list(range(SIZE))


def test_order_is_shuffled_without_a_pattern():
    positions = torch.zeros(SIZE)
    for seed in range(400):
        positions += torch.argsort(BatchStream(in_memory(), SIZE, seed=seed).indices(0)).float() / 400
    # The mean position of each sample is 24.5 with a standard deviation of 0.72.
    assert (positions - 24.5).abs().max() < 4.5 * 0.72


def test_labels_belong_to_their_samples():
    for dataset in (in_memory(), Lazy(modulo_three)):
        x, labels = BatchStream(dataset, 12, seed=1)[3]
        assert labels.dtype == torch.int64 and torch.equal(labels, x[:, 0].long() % 3)


@pytest.mark.parametrize("nothing", [None, -1])
def test_no_labels(nothing):
    assert BatchStream(Lazy(lambda index: nothing), 12, seed=1)[0][1] is None


def test_seeds_differ():
    first_batch = BatchStream(in_memory(), 12, seed=1)[0][0]
    assert not torch.equal(first_batch, BatchStream(in_memory(), 12, seed=2)[0][0])
    # Beyond 32 bits too, though torch's generator would use the low 32 bits of a seed only.
    assert not torch.equal(first_batch, BatchStream(in_memory(), 12, seed=1 + 2**32)[0][0])


def test_random_changes_depend_on_epoch_and_sample():
    stream = BatchStream(Noisy(modulo_three), SIZE, seed=1)
    noise = []
    for epoch in range(2):
        x, _ = stream[epoch]
        order = stream.indices(epoch)
        noise.append((x - order[:, None])[torch.argsort(order)])
    assert (noise[0] - noise[1]).abs().min() > 0
    assert len(noise[0][:, 0].unique()) == SIZE


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_is_left_alone(workers):
    before = torch.get_rng_state()
    first(BatchStream(Noisy(modulo_three), 12, seed=0, workers=workers), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_gives_tuples_with_and_without_workers():
    for workers in (0, 1):
        batch = next(iter(BatchStream(Lazy(modulo_three), 12, seed=0, workers=workers)))
        assert isinstance(batch, tuple) and len(batch) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("dataset", [in_memory(), Lazy(modulo_three)], ids=["memory", "lazy"])
def test_pins_memory_where_cuda_is(dataset, workers):
    x, labels = next(iter(BatchStream(dataset, 12, seed=0, workers=workers)))
    assert x.is_pinned() and labels.is_pinned()
    x, labels = next(iter(BatchStream(dataset, 12, seed=0, workers=workers, pin_memory=False)))
    assert not x.is_pinned() and not labels.is_pinned()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": 3}, TypeError, "dataset must have __len__ and __getitem__ .*, got int"),
        ({"batch_size": 51}, ValueError, "batch_size must be at most 50, the number of samples of the data, got 51"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 4.0}, TypeError, "batch_size must be an int, got 4.0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": None}, TypeError, "seed must be an int, got None"),
        ({"start_step": -1}, ValueError, "start_step must be at least 0, got -1"),
        ({"workers": -1}, ValueError, "workers must be at least 0, got -1"),
        ({"world_size": 0}, ValueError, "world_size must be at least 1, got 0"),
        ({"rank": -1}, ValueError, "rank must be at least 0, got -1"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank must be from 0 to 1, got 2"),
        (
            {"world_size": 4, "micro_batches": 4},
            ValueError,
            "batch_size must be at least 16, .* got 12 in 4 micro-batches",
        ),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchStream(**{"dataset": Lazy(), "batch_size": 12, "seed": 0, **arguments})


def test_refuses_steps_before_the_first():
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        BatchStream(Lazy(), 12, seed=0)[-1]


def test_refuses_labels_on_some_samples_only():
    with pytest.raises(ValueError, match="some samples a label and others none"):
        BatchStream(Lazy(lambda index: None if index % 2 else 1), SIZE, seed=0)[0]


def test_can_be_sent_to_a_process_that_shares_no_memory():
    stream = BatchStream(Noisy(modulo_three), 12, seed=1, rank=1, world_size=2)
    before = first(stream, 3)
    same(first(pickle.loads(pickle.dumps(stream)), 3), before)
