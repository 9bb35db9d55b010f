import itertools

import pytest
import torch

from rcgm.distributed import shares
from rcgm.distributed.shares import Processes, Share

SPLITS = [(7, 1, 1), (7, 3, 1), (8, 2, 1), (3, 3, 1), (12, 1, 4), (12, 2, 3), (13, 2, 3), (11, 3, 3), (9, 4, 2)]


def split(total: int, count: int, parts: int) -> list[list[Share]]:
    """The shares by micro-batch and process."""
    return [[Processes(rank, count).share(total, part, parts) for rank in range(count)] for part in range(parts)]


@pytest.mark.parametrize(("total", "count", "parts"), SPLITS)
def test_every_row_is_in_one_share(total, count, parts):
    whole = torch.arange(total)
    dealt = split(total, count, parts)
    every = list(itertools.chain(*dealt))
    rows = [share.of(whole) for share in every]
    assert sorted(torch.cat(rows).tolist()) == whole.tolist()
    assert [len(own) for own in rows] == [share.rows for share in every]
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    for shares_of_part in dealt:
        assert {share.together for share in shares_of_part} == {sum(share.rows for share in shares_of_part)}
        last = sorted(torch.cat([share.of(whole) for share in shares_of_part]).tolist())
        for number in range(len(last) + 1):
            kept = [sum(row in last[len(last) - number :] for row in share.of(whole)) for share in shares_of_part]
            assert [share.last(number) for share in shares_of_part] == kept
    for number in range(total + 1):
        assert [share.before(number) for share in every] == [int((own < number).sum()) for own in rows]


@pytest.mark.parametrize(("total", "count", "parts"), SPLITS)
def test_micro_batches_hold_the_same_rows_for_any_number_of_processes(total, count, parts):
    whole = torch.arange(total)
    for shares_of_part, (alone,) in zip(split(total, count, parts), split(total, 1, parts), strict=True):
        together = torch.cat([share.of(whole) for share in shares_of_part])
        assert sorted(together.tolist()) == alone.of(whole).tolist()


def test_the_whole_is_not_copied():
    whole = torch.arange(4)
    assert Share(4).of(whole) is whole


@pytest.mark.parametrize(("total", "parts"), [(4, 1), (5, 1), (9, 1), (8, 2), (13, 3), (15, 3)])
def test_all_make_a_forward_or_none(total, parts):
    for shares_of_part in split(total, 4, parts):
        for number in range(total + 1):
            left = [share.rows - share.left_out(number) for share in shares_of_part]
            needed = [share.rows - share.before(number) for share in shares_of_part]
            assert all(left) if any(needed) else not any(left)
            assert all(share.left_out(number) <= share.before(number) for share in shares_of_part)


def test_rows_that_need_no_forward_are_shared_evenly():
    assert [Share(64, rank, 4).left_out(48) for rank in range(4)] == [12, 12, 12, 12]
    assert {Share(64, rank, 2, part, 4).left_out(48) for rank in range(2) for part in range(4)} == {6}


@pytest.mark.parametrize("largest", [1, 8, 2**22])  # elements of a draw: a row, two, all
@pytest.mark.parametrize(("total", "count", "parts"), SPLITS)
def test_noise_of_a_row_does_not_depend_on_the_split(monkeypatch, largest, total, count, parts):
    monkeypatch.setattr(shares, "LARGEST_DRAW", largest)

    def drawn(share: Share) -> torch.Tensor:
        like = torch.empty(share.rows, 2, 2, dtype=torch.float64)
        noise = share.normal(like, torch.Generator().manual_seed(1))
        assert noise.shape == like.shape and noise.dtype == like.dtype and noise.is_contiguous()
        return noise

    whole = drawn(Share(total))
    assert len(whole.unique()) == whole.numel()
    for share in itertools.chain(*split(total, count, parts)):
        assert torch.equal(drawn(share), share.of(whole))


def test_noise_of_a_whole_batch_is_one_draw():
    like = torch.empty(5, 3)
    expected = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(Share(5).normal(like, torch.Generator().manual_seed(1)), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 0, 3), "a row for each of 3 processes in each of 1 micro-batches, 3 or more, got 2"),
        ((7, 0, 2, 0, 4), "a row for each of 2 processes in each of 4 micro-batches, 8 or more, got 7"),
        ((4, 2, 2), "rank must be from 0 to 1, got 2"),
        ((4, 0, 1, -1, 2), "micro_batch must be from 0 to 1, got -1"),
    ],
)
def test_impossible_shares(arguments, message):
    with pytest.raises(ValueError, match=message):
        Share(*arguments)


def test_one_process_agrees_with_itself():
    one = Processes()
    assert one.is_main and one.all_agree(True, torch.device("cpu")) and not one.all_agree(False, torch.device("cpu"))
    assert Share(3).add_up_(torch.ones(2)).tolist() == [1, 1]
