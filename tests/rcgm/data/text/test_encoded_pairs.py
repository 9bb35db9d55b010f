"""Encoded pairs of images and captions are read as they were written."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rcgm.data import (
    EncodedPairs,
    build_dataset,
    data_fingerprint,
    describe_data,
    examples,
    fingerprint_differences,
)
from rcgm.data.text.layout import packed_text
from tests.support.encoded_pairs import LENGTH, SHAPES, WIDTH, condition, write_pairs

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


def test_captions_may_be_any_text(tmp_path):
    write_pairs(tmp_path, [(SHAPES[0], 1)])
    text = 'a "red"\nthree \u2028 \U0001f600'
    (tmp_path / "text_shard00000.captions.json").write_text(json.dumps({"captions": [text]}))
    assert EncodedPairs(tmp_path).captions(torch.tensor([0])) == [text]
