import pytest
import torch

from rcgm.engine import conditions


def nest(rows=3, offset=0):
    """A condition of labels, a vector and an image-like tensor, in a dict that holds a tuple and a list."""
    base = torch.arange(rows) + offset
    return {
        "label": base,
        "text": (base[:, None] * torch.ones(4), [base[:, None, None] * torch.ones(2, 2)]),
    }


def leaves(condition):
    return [condition["label"], condition["text"][0], condition["text"][1][0]]


@pytest.mark.parametrize(
    "condition",
    [None, torch.zeros(3), torch.zeros(3, 2, 2), (torch.zeros(3), torch.zeros(3, 1)), [torch.zeros(3)], nest(), {}],
    ids=["none", "vector", "tensor", "tuple", "list", "nest", "empty"],
)
def test_accepts(condition):
    conditions.check("cond", condition, 3)


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (torch.zeros(2), ValueError, r"cond must have a leading dimension of 3, got the shape \[2\]"),
        (torch.zeros(1, 4), ValueError, r"cond must have a leading dimension of 3, got the shape \[1, 4\]"),
        (torch.tensor(1), ValueError, r"cond must have a leading dimension of 3, got the shape \[\]"),
        ("label", TypeError, "cond must be a tensor, got str"),
        (7, TypeError, "cond must be a tensor, got int"),
        ({"a": torch.zeros(3), "b": None}, TypeError, r"cond\['b'\] must be a tensor, got NoneType"),
        ({"a": (torch.zeros(3), torch.zeros(4))}, ValueError, r"cond\['a'\]\[1\] must have a leading dimension of 3"),
        ([torch.zeros(3), 2.0], TypeError, r"cond\[1\] must be a tensor, got float"),
    ],
)
def test_names_the_leaf_that_does_not_fit(condition, error, message):
    with pytest.raises(error, match=message):
        conditions.check("cond", condition, 3)


def test_null_may_have_one_row():
    conditions.check_null(nest(), nest(1), 3)
    conditions.check_null(nest(), nest(3), 3)
    conditions.check("null_cond", nest(1), 3, may_be_one=True)


@pytest.mark.parametrize(
    ("condition", "null", "message"),
    [
        (nest(), nest(2), r"null_cond\['label'\] must have a leading dimension of 3 or 1, got the shape \[2\]"),
        (torch.zeros(3), {"a": torch.zeros(1)}, "null_cond must have the structure of cond"),
        (nest(), (torch.zeros(1),), "null_cond must have the structure of cond"),
        (
            {"a": torch.zeros(3), "b": torch.zeros(3)},
            {"a": torch.zeros(1)},
            "null_cond must have the structure of cond",
        ),
        # Broadcasting would make [3, 3] of these.
        (torch.zeros(3), torch.zeros(1, 1), r"null_cond must have samples of the shape \[\], as cond has, got \[1\]"),
        (
            {"a": torch.zeros(3, 4)},
            {"a": torch.zeros(1, 5)},
            r"null_cond\['a'\] must have samples of the shape \[4\], as cond has, got \[5\]",
        ),
    ],
)
def test_null_that_cannot_stand_in(condition, null, message):
    with pytest.raises(ValueError, match=message):
        conditions.check_null(condition, null, 3)


def test_null_of_an_unconditional_batch_is_not_looked_at():
    conditions.check_null(None, torch.zeros(1), 3)


def test_concatenate_joins_each_leaf():
    first, second, third = nest(3), nest(2, 10), nest(1, 20)
    joined = conditions.concatenate([first, second, third])
    for leaf, *parts in zip(leaves(joined), leaves(first), leaves(second), leaves(third), strict=True):
        assert torch.equal(leaf, torch.cat(parts))
    assert isinstance(joined["text"], tuple)
    assert isinstance(joined["text"][1], list)


def test_concatenate_of_one_or_of_none():
    condition = nest()
    assert conditions.concatenate([condition]) is condition
    assert conditions.concatenate([None, None]) is None


def test_rows_of():
    condition = nest(5)
    assert conditions.rows_of(condition, slice(0, 5), 5) is condition
    assert conditions.rows_of(None, slice(3, 5), 5) is None
    for rows in (slice(2, 5), slice(0, 3), slice(1, 4)):
        for rest, leaf in zip(leaves(conditions.rows_of(condition, rows, 5)), leaves(condition), strict=True):
            assert torch.equal(rest, leaf[rows])


def test_expanded_repeats_without_copying():
    null = nest(1, 7)
    assert conditions.expanded(None, 4) is None
    for repeated, leaf in zip(leaves(conditions.expanded(null, 4)), leaves(null), strict=True):
        assert repeated.shape == (4, *leaf.shape[1:])
        assert torch.equal(repeated, leaf.repeat(4, *[1] * (leaf.ndim - 1)))
        assert repeated.data_ptr() == leaf.data_ptr()
    whole = nest(4)
    for repeated, leaf in zip(leaves(conditions.expanded(whole, 4)), leaves(whole), strict=True):
        assert torch.equal(repeated, leaf)


def test_dropped_takes_the_null_in_the_samples_that_drop():
    drop = torch.tensor([True, False, True])
    for null in (nest(1, 50), nest(3, 50)):
        chosen = conditions.dropped(nest(), conditions.expanded(null, 3), drop)
        for leaf, kept, instead in zip(
            leaves(chosen), leaves(nest()), leaves(conditions.expanded(null, 3)), strict=True
        ):
            assert leaf.dtype == kept.dtype
            for row in range(3):
                assert torch.equal(leaf[row], (instead if drop[row] else kept)[row])


def test_rows_of_a_share_and_another_device():
    nest = {"text": torch.arange(12).reshape(6, 2), "mask": torch.ones(6, dtype=torch.bool)}
    own = conditions.every(nest, 1, 3)
    assert own["text"].tolist() == [[2, 3], [8, 9]] and own["text"].is_contiguous() and own["mask"].shape == (2,)
    assert conditions.every(None, 1, 3) is None and conditions.moved(None, torch.device("cpu")) is None
    assert conditions.moved(nest, torch.device("meta"))["mask"].device.type == "meta"
