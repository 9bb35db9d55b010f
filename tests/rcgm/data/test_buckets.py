"""A batch of samples of several shapes holds one shape, and is a function of seed and step alone."""

import itertools

import pytest
import torch
from torch.utils.data import Dataset

from rcgm.data import BatchStream, EncodedPairs
from rcgm.distributed.shares import Share
from tests.support.encoded_pairs import SHAPES, write_pairs

SIZES = (10, 3, 17, 8)
BATCH = 4
WHOLE = 10 // 4 + 17 // 4 + 8 // 4


class Shapes(Dataset):
    """Sample i is i, repeated 1 to 4 times by its bucket; its condition is i too."""

    def __init__(self):
        ends = list(itertools.accumulate(SIZES))
        self.buckets = [range(end - size, end) for size, end in zip(SIZES, ends, strict=True)]

    def __len__(self):
        return sum(SIZES)

    def __getitem__(self, index):
        bucket = next(number for number, bucket in enumerate(self.buckets) if index in bucket)
        return torch.full((bucket + 1,), float(index)), {"text": torch.tensor([index]), "mask": torch.tensor(True)}


def rows(stream, epoch):
    first = epoch * stream.steps_per_epoch
    return [stream.indices(step) for step in range(first, first + stream.steps_per_epoch)]


def test_a_batch_has_one_shape_and_an_epoch_no_sample_twice():
    stream = BatchStream(Shapes(), BATCH, seed=0)
    assert stream.steps_per_epoch == WHOLE
    seen = set()
    for epoch in range(20):
        batches = rows(stream, epoch)
        for batch in batches:
            assert any(all(index in bucket for index in batch.tolist()) for bucket in stream._buckets)
        flat = torch.cat(batches).tolist()
        assert len(set(flat)) == WHOLE * BATCH
        seen |= set(flat)
    # what one epoch drops of a shape, another visits; a shape with less than a batch is never used
    assert seen == set(range(38)) - set(range(10, 13))
    x, cond = stream[0]
    assert torch.equal(x[:, 0], cond["text"][:, 0].float())
    assert cond["mask"].tolist() == [True] * BATCH
    assert stream.notes() == [
        "batches: 8 of 4 in an epoch, each of one shape; 6 samples are left out, others in each epoch",
        "shapes with fewer samples than a batch: 1, whose 3 samples are never used: make batch_size smaller, or encode "
        "with fewer shapes",
    ]


def test_shapes_come_in_a_drawn_order():
    stream = BatchStream(Shapes(), BATCH, seed=0)
    orders = {tuple(int(batch[0] > 12) + int(batch[0] > 29) for batch in rows(stream, epoch)) for epoch in range(20)}
    assert len(orders) > 10
    assert {tuple(sorted(order)) for order in orders} == {(0, 0, 1, 1, 1, 1, 2, 2)}


@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_exactly(workers):
    whole = list(itertools.islice(BatchStream(Shapes(), BATCH, 5), 20))
    for start in (3, 8, 11):
        resumed = itertools.islice(BatchStream(Shapes(), BATCH, 5, start, workers), 20 - start)
        for (x, cond), (other, other_cond) in zip(whole[start:], resumed, strict=True):
            assert torch.equal(x, other)
            assert cond.keys() == other_cond.keys()
            assert all(torch.equal(cond[name], other_cond[name]) for name in cond)


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (3, 1), (2, 2), (1, 3)])
def test_ranks_share_the_batch_of_one_process(world_size, parts):
    whole = BatchStream(Shapes(), BATCH, seed=3)
    for rank in range(world_size):
        stream = BatchStream(Shapes(), BATCH, seed=3, rank=rank, world_size=world_size, micro_batches=parts)
        for step in range(12):
            (x, cond), (own_x, own) = whole[step], stream[step]
            for part in range(parts):
                share = Share(BATCH, rank, world_size, part, parts)
                assert torch.equal(own_x[part::parts], share.of(x))
                assert torch.equal(own["text"][part::parts], share.of(cond["text"]))


def test_a_batch_larger_than_every_shape_is_refused():
    with pytest.raises(ValueError, match="at most 17, the number of samples of the most frequent shape"):
        BatchStream(Shapes(), 18, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_encoded_pairs_come_in_batches(tmp_path, workers):
    write_pairs(tmp_path)
    dataset = EncodedPairs(tmp_path)
    stream = BatchStream(dataset, 3, seed=1, workers=workers)
    shapes = set()
    for step, (x, cond) in enumerate(itertools.islice(stream, 12)):
        shapes.add(tuple(x.shape[1:]))
        for row, index in enumerate(stream.indices(step).tolist()):
            single, own = dataset[index]
            assert torch.equal(x[row], single)
            assert all(torch.equal(cond[name][row], own[name]) for name in own)
    assert shapes == set(SHAPES)
