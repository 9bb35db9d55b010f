import pytest
import torch

from rcgm.shares import Processes, Share


@pytest.mark.parametrize(("total", "count"), [(7, 1), (7, 3), (8, 2), (3, 3)])
def test_every_row_is_in_one_share(total, count):
    whole = torch.arange(total)
    shares = [Processes(rank, count).share(total) for rank in range(count)]
    parts = [share.of(whole) for share in shares]
    assert sorted(torch.cat(parts).tolist()) == whole.tolist()
    assert [len(part) for part in parts] == [share.rows for share in shares]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for number in range(total + 1):
        assert [share.before(number) for share in shares] == [int((part < number).sum()) for part in parts]


def test_the_whole_is_not_copied():
    whole = torch.arange(4)
    assert Share(4).of(whole) is whole


@pytest.mark.parametrize("total", [4, 5, 9])
def test_all_make_a_forward_or_none(total):
    shares = [Share(total, rank, 4) for rank in range(4)]
    for number in range(total + 1):
        left = [share.rows - share.left_out(number) for share in shares]
        assert all(left) if number < total else not any(left)
        assert all(share.left_out(number) <= share.before(number) for share in shares)


def test_rows_that_need_no_forward_are_shared_evenly():
    assert [Share(64, rank, 4).left_out(48) for rank in range(4)] == [12, 12, 12, 12]


@pytest.mark.parametrize(("arguments", "message"), [((2, 0, 3), "at least one row"), ((4, 2, 2), "from 0 to 1")])
def test_impossible_shares(arguments, message):
    with pytest.raises(ValueError, match=message):
        Share(*arguments)


def test_one_process_agrees_with_itself():
    one = Processes()
    assert one.first and one.all_agree(True, torch.device("cpu")) and not one.all_agree(False, torch.device("cpu"))
    assert Share(3).add_up_(torch.ones(2)).tolist() == [1, 1]
