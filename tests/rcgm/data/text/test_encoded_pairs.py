"""Encoded pairs of images and captions are read as they were written, whatever else a file claims is refused."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rcgm.data import (
    EncodedPairs,
    Latents,
    build_dataset,
    data_fingerprint,
    describe_data,
    examples,
    fingerprint_differences,
)
from rcgm.data.text.layout import packed_text
from tests.support.encoded_pairs import LENGTH, SHAPES, WIDTH, condition, write_manifest, write_pairs

ORDER = (0, 2, 1)
"""Shards of one shape are put together."""


def together(contents):
    for number in ORDER:
        latents, cond = contents[number]
        for row in range(len(latents)):
            yield latents[row], {name: tensor[row] for name, tensor in cond.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("masked", "pooled"), [(True, True), (True, False), (False, True), (False, False)])
def test_samples_are_what_was_written(tmp_path, dtype, masked, pooled):
    contents = write_pairs(tmp_path, dtype=dtype, masked=masked, pooled=pooled)
    dataset = build_dataset("encoded_pairs", path=tmp_path)
    assert len(dataset) == 20
    assert [list(bucket) for bucket in dataset.buckets] == [list(range(13)), list(range(13, 20))]
    for index, (latents, cond) in enumerate(together(contents)):
        x, own = dataset[index]
        assert x.dtype == torch.float32 and torch.equal(x, latents)
        assert list(own) == ["text", *(["mask"] if masked else []), *(["pooled"] if pooled else [])]
        assert all(torch.equal(own[name], cond[name]) and own[name].dtype == cond[name].dtype for name in own)
    assert dataset.null_cond.keys() == own.keys()
    assert all(torch.equal(dataset.null_cond[name], condition(1, 50)[name]) for name in ("text",) if masked and pooled)


def test_many_rows_are_read_in_the_order_asked_for(tmp_path):
    write_pairs(tmp_path)
    dataset = EncodedPairs(tmp_path)
    indices = torch.tensor([12, 0, 9, 3, 3])
    x, cond = dataset.take(indices)
    for row, index in enumerate(indices.tolist()):
        single, own = dataset[index]
        assert torch.equal(x[row], single)
        assert all(torch.equal(cond[name][row], own[name]) for name in own)
    mixed = torch.tensor([19, 0])  # conditions have one shape, whatever that of the latents
    assert torch.equal(dataset.conditions(mixed)["text"][0], dataset[19][1]["text"])
    assert dataset.captions(mixed) == ["caption 1.6", "caption 0.0"]
    with pytest.raises(ValueError, match="indices must be of samples of one shape"):
        dataset.take(mixed)
    with pytest.raises(IndexError):
        dataset[20]


def test_a_text_takes_the_place_of_its_true_length(tmp_path):
    (_, cond), *_ = write_pairs(tmp_path)
    stored = load_file(tmp_path / "text_shard00000.safetensors")
    assert stored["text"].shape == (int(cond["mask"].sum()), WIDTH)
    assert len(stored["text"]) < 9 * LENGTH
    assert stored["text_offsets"].tolist() == [0, *cond["mask"].sum(1).cumsum(0).tolist()]


def test_masks_need_not_begin_at_the_first_word(tmp_path):
    write_pairs(tmp_path, [(SHAPES[0], 2)])
    path = tmp_path / "text_shard00000.safetensors"
    stored = load_file(path)
    mask = torch.tensor([[False, False, False, False, True], [True, False, True, False, False]])
    stored |= {"mask": mask, "text": torch.arange(18.0).reshape(3, 6), "text_offsets": torch.tensor([0, 1, 3])}
    save_file(stored, path)
    text = EncodedPairs(tmp_path).take(torch.arange(2))[1]["text"]
    assert torch.equal(text[mask], stored["text"]) and not text[~mask].any()


def test_states_of_a_second_text_encoder(tmp_path):
    write_pairs(tmp_path, [(SHAPES[0], 3)], pooled=False)
    path = tmp_path / "text_shard00000.safetensors"
    cond = condition(3, 7, pooled=False)
    cond["mask_2"], cond["text_2"] = torch.zeros(3, 4, dtype=torch.bool), torch.zeros(3, 4, 2)
    cond["mask_2"][1, :2], cond["text_2"][1, :2] = True, 1.5  # the other captions have none
    save_file({"latents": torch.zeros(3, *SHAPES[0]), **packed_text(cond)}, path)
    save_file({name: tensor[:1].clone() for name, tensor in cond.items()}, tmp_path / "null.safetensors")
    dataset = EncodedPairs(tmp_path)
    assert list(dataset.info.text.tensors) == list(dataset.null_cond) == ["text", "mask", "text_2", "mask_2"]
    own = dataset.take(torch.arange(3))[1]
    assert list(own) == list(dataset.null_cond)
    assert all(torch.equal(own[name], cond[name]) for name in cond)
    assert len(load_file(path)["text_2"]) == 2


def test_info_and_description(tmp_path):
    write_pairs(tmp_path)
    dataset = EncodedPairs(tmp_path)
    assert dataset.info.shape == SHAPES[0]
    assert dataset.info.text.tensors == {"text": (5, 6), "mask": (5,), "pooled": (3,)}
    assert (dataset.info.text.family, dataset.info.text.pipeline) == ("sana", "somewhere/sana")
    assert (dataset.info.text.encoder, dataset.info.text.length) == ("", 5)
    lines = describe_data(dataset)
    assert lines[0].startswith("data: 20 latents with captions of 4 x 4 x 6, values from ")
    assert lines[1:] == [
        "conditions of sana: text 5 x 6, mask 5, pooled 3",
        "shapes: 4 x 4 x 6: 13 samples; 4 x 6 x 4: 7 samples",
        "left out when encoded: 2, image is broken",
        "captions cut to what the encoder takes: 1",
    ]
    assert examples(dataset, 30).shape == (30, *SHAPES[0])
    again = pickle.loads(pickle.dumps(dataset))  # as a worker process gets it
    assert torch.equal(again[7][0], dataset[7][0])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the list of a process's mappings")
def test_a_shard_is_mapped_once(tmp_path):
    write_pairs(tmp_path)
    dataset = pickle.loads(pickle.dumps(EncodedPairs(tmp_path)))
    assert len(dataset) == 20
    mapped = Path("/proc/self/maps").read_text()
    for shard in range(3):
        assert mapped.count(str(tmp_path / f"text_shard{shard:05d}.safetensors")) == 1


def test_the_fingerprint_tells_other_pairs(tmp_path):
    for name in ("one", "two", "three"):
        write_pairs(tmp_path / name)
    known = data_fingerprint(EncodedPairs(tmp_path / "one"))
    assert not fingerprint_differences(known, data_fingerprint(EncodedPairs(tmp_path / "two")))
    path = tmp_path / "two" / "text_shard00001.safetensors"
    stored = load_file(path)
    stored["pooled"][3] += 1
    save_file(stored, path)
    assert fingerprint_differences(known, data_fingerprint(EncodedPairs(tmp_path / "two"))) == [
        "content of some samples differs"
    ]
    save_file(condition(1, 51), tmp_path / "three" / "null.safetensors")
    assert fingerprint_differences(known, data_fingerprint(EncodedPairs(tmp_path / "three"))) == [
        "conditions of the empty caption differ"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(9, 4, 4)}, r"'latents' of .* must be \[N, C, H, W\]"),
        ({"latents": torch.zeros(8, 4, 4, 6)}, r"must be \[9, 4, 4, 6\], as the manifest says, got \[8, 4, 4, 6\]"),
        ({"latents": torch.zeros(9, 4, 4, 6).long()}, "float16, bfloat16, float32, got int64"),
        ({"text": None}, "must hold latents and text"),
        ({"mask": None}, "mask together with text and text_offsets"),
        ({"text_2_offsets": torch.zeros(10).long()}, "mask_2 together with text_2 and text_2_offsets"),
        ({"more": torch.zeros(9)}, "'more'"),
        ({"text": torch.zeros(3, 6)}, "'text_offsets' of .* must rise from 0 to 3"),
        ({"text": torch.zeros(24, 6).long()}, "'text' of .* must be float16"),
        ({"text": torch.zeros(24, 2, 3)}, r"'text' of .* must be \[T, C\]"),
        ({"mask": torch.ones(9, 5)}, "'mask' of .* must be bool, got float32"),
        ({"mask": torch.ones(8, 5, dtype=torch.bool)}, r"'mask' of .* must be \[9, L\]"),
        ({"text_offsets": torch.zeros(9, dtype=torch.int64)}, r"'text_offsets' of .* must be int64 \[10\]"),
        ({"text_offsets": torch.zeros(10)}, r"must be int64 \[10\], got float32"),
        ({"text_offsets": torch.tensor([0, 5, 3, 8, 10, 12, 14, 16, 20, 24])}, "must rise from 0"),
        ({"text_offsets": torch.tensor([0, 9, 10, 11, 12, 13, 14, 16, 20, 24])}, "by at most 5 a sample"),
        ({"text_offsets": torch.tensor([-1, 1, 3, 6, 10, 12, 14, 16, 20, 24])}, "must rise from 0"),
        (
            {
                "mask": torch.zeros(9, 2**15, dtype=torch.bool),
                "text": torch.zeros(1, 2**14),
                "text_offsets": torch.tensor([0] * 9 + [1]),
            },
            "'text' of .* must have at most 268435456 numbers a caption, got 32768 x 16384",
        ),
        ({"pooled": torch.zeros(9, 0)}, r"'pooled' of .* must be \[9, D\]"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, changes, message):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00000.safetensors"
    stored = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, path)
    with pytest.raises(ValueError, match=message) as error:
        EncodedPairs(tmp_path)
    assert "text_shard00000" in str(error.value)


@pytest.mark.parametrize("name", ["latents", "text", "pooled"])
def test_values_that_are_not_finite_are_named_with_their_row(tmp_path, name):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00001.safetensors"
    stored = load_file(path)
    row = int(stored["text_offsets"][2]) if name == "text" else 2
    stored[name][row].view(-1)[1] = float("nan")
    save_file(stored, path)
    dataset = EncodedPairs(tmp_path)
    dataset.take(torch.tensor([13, 14, 16]))
    with pytest.raises(ValueError, match=rf"'{name}' of .*00001.* not finite in row 2"):
        dataset.take(torch.tensor([13, 15, 16]))


def test_a_mask_that_does_not_fit_the_text_is_named(tmp_path):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00000.safetensors"
    stored = load_file(path)
    stored["mask"][4] = ~stored["mask"][4]
    save_file(stored, path)
    with pytest.raises(ValueError, match=r"'mask' of .* does not fit 'text_offsets' in row 4"):
        EncodedPairs(tmp_path).take(torch.arange(9))


SHARD = {"file": "text_shard00000.safetensors", "samples": 9, "shape": [4, 4, 6]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": []}, "at least one"),
        ({"shards": [SHARD, SHARD]}, "different files"),
        (
            {"shards": [{**SHARD, "file": "../text_shard00000.safetensors"}]},
            "file must be text_shardNUMBER.safetensors",
        ),
        ({"shards": [{**SHARD, "file": "/etc/passwd"}]}, "file must be"),
        ({"shards": [{**SHARD, "file": "text_shard00009.safetensors"}]}, "must be a file that exists"),
        ({"shards": [{**SHARD, "samples": True}]}, "samples must be an int"),
        ({"shards": [{**SHARD, "samples": 2**70}]}, "as the manifest says"),
        ({"shards": [{**SHARD, "shape": [4, 4]}]}, r"shape must be \[C, H, W\]"),
        ({"shards": 3}, "cannot read the manifest"),
        ({"version": 2}, "of a later rcgm"),
        ({"family": 3}, "family must be a text"),
        ({"length": 0}, "length must be at least 1"),
        ({"left_out": {"broken": -1}}, "must be at least 0"),
        ({"format": None}, "set data.name to latents"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, changes, message):
    write_pairs(tmp_path)
    write_manifest(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        EncodedPairs(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "{", '{"format": "encoded_pairs"}'])
def test_a_manifest_that_is_none_is_named(tmp_path, content):
    write_pairs(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="cannot read the manifest"):
        EncodedPairs(tmp_path)


def test_the_other_kind_of_latents_names_this_one(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(ValueError, match=r"of images with captions: set data\.name to encoded_pairs"):
        Latents(tmp_path)


def test_folders_that_are_not_ready_are_named(tmp_path):
    with pytest.raises(ValueError, match="rcgm encode --text"):
        EncodedPairs(tmp_path)
    write_pairs(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="run the encode command to its end"):
        EncodedPairs(tmp_path)


def test_other_conditions_in_one_shard_or_of_the_empty_caption_are_named(tmp_path):
    write_pairs(tmp_path / "one")
    write_pairs(tmp_path / "two", pooled=False)
    (tmp_path / "one" / "text_shard00001.safetensors").write_bytes(
        (tmp_path / "two" / "text_shard00001.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match=r"00001.* holds conditions .*encode the pairs again"):
        EncodedPairs(tmp_path / "one")
    for content, message in (
        (condition(1, 0, masked=False), "null.safetensors must hold"),
        ({"text": torch.zeros(2, 5, 6)}, r"must be \[1, L, C\]"),
        ({"pooled": torch.zeros(1, 3)}, "must hold text"),
        ({**condition(1, 0, pooled=False), "text": torch.full((1, 5, 6), float("inf"))}, "not finite"),
    ):
        save_file(content, tmp_path / "two" / "null.safetensors")
        with pytest.raises(ValueError, match=message):
            EncodedPairs(tmp_path / "two")
    (tmp_path / "two" / "null.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read the conditions of the empty caption"):
        EncodedPairs(tmp_path / "two")


@pytest.mark.parametrize("content", [None, "[" * 100_000, '{"captions": [1, 2]}', '{"captions": ["one"]}', "[]"])
def test_damaged_captions_are_named(tmp_path, content):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00000.captions.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match='cannot read "captions"'):
        EncodedPairs(tmp_path).captions(torch.tensor([0]))


def test_captions_may_be_any_text(tmp_path):
    write_pairs(tmp_path, [(SHAPES[0], 1)])
    text = 'a "red"\nthree \u2028 \U0001f600'
    (tmp_path / "text_shard00000.captions.json").write_text(json.dumps({"captions": [text]}))
    assert EncodedPairs(tmp_path).captions(torch.tensor([0])) == [text]
