"""Folders of samples: names, pictures, and what happens to a folder that was begun before."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.runs.layouts import SampleFolder
from rcgm.runs.prompt_files import Prompt

PROMPTS = [
    Prompt("a cat", "p1", '{"prompt": "a cat"}'),
    Prompt("a dog", "p2", '{"prompt": "a dog"}'),
    Prompt("a cow", "p3", '{"prompt": "a cow"}'),
]


def folder(root, layout="flat", each=2, prompts=PROMPTS, **settings):
    return SampleFolder(root / "out", layout, prompts, each, {"seed": 0, "size": (4, 6), **settings})


def image(number, sample):
    """One colour, another for each sample."""
    return torch.full((3, 4, 6), 2 * (10 * number + sample) / 255 - 1)


def fill(one, numbers):
    for number in numbers:
        for sample in range(one.each):
            one.write(number, sample, image(number, sample))


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def begun(*arguments, **options):
    one = folder(*arguments, **options)
    one.check()
    one.begin()
    return one


def colour(path):
    return np.asarray(Image.open(path))[0, 0, 0]


def test_flat(tmp_path):
    fill(begun(tmp_path), range(3))
    assert files(tmp_path / "out") == [f"0000{n}.png" for n in range(6)] + ["prompts.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "out/prompts.jsonl").read_text().splitlines()]
    assert lines[3] == {"file": "00003.png", "prompt": "a dog"}
    assert colour(tmp_path / "out/00003.png") == 11
    assert Image.open(tmp_path / "out/00003.png").size == (6, 4)


def test_geneval(tmp_path):
    fill(begun(tmp_path, "geneval"), range(3))
    expected = [
        f"0000{n}/{name}" for n in range(3) for name in ("metadata.jsonl", "samples/0000.png", "samples/0001.png")
    ]
    assert files(tmp_path / "out") == expected
    assert (tmp_path / "out/00001/metadata.jsonl").read_text() == '{"prompt": "a dog"}\n'
    assert colour(tmp_path / "out/00002/samples/0001.png") == 21


@pytest.mark.parametrize(("each", "size"), [(1, (6, 4)), (2, (12, 4)), (3, (12, 8)), (4, (12, 8))])
def test_dpg(tmp_path, each, size):
    fill(begun(tmp_path, "dpg", each), range(3))
    assert files(tmp_path / "out") == ["p1.png", "p2.png", "p3.png"]
    picture = Image.open(tmp_path / "out/p2.png")
    assert picture.size == size
    for sample in range(each):
        assert picture.getpixel((6 * (sample % 2), 4 * (sample // 2))) == (10 + sample,) * 3


@pytest.mark.parametrize("layout", ["flat", "geneval", "dpg"])
def test_a_folder_is_filled_up(tmp_path, layout):
    one = begun(tmp_path, layout)
    fill(one, [1])
    one.write(0, 0, image(0, 0))  # stopped in the middle of a prompt
    again = begun(tmp_path, layout)
    assert again.missing(range(3)) == [0, 2]
    fill(again, [0, 2])
    assert again.missing(range(3)) == []


def test_a_folder_of_other_settings_is_refused_and_replaced_by_force(tmp_path):
    fill(begun(tmp_path), range(3))
    (tmp_path / "out/mine.txt").write_text("kept")
    other = folder(tmp_path, seed=1, prompts=PROMPTS[:2])
    with pytest.raises(ValueError, match="with others of seed, prompts: name another folder"):
        other.check()
    other.check(force=True)
    other.begin()
    # also those that the new settings do not have
    assert files(tmp_path / "out") == ["mine.txt", "prompts.jsonl"]
    assert other.missing(range(2)) == [0, 1]
    folder(tmp_path, seed=1, prompts=PROMPTS[:2]).check()


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    folder(tmp_path).check()  # empty
    (tmp_path / "out/mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="output must be a new folder"):
        folder(tmp_path).check()
    (tmp_path / "out.settings.json").write_text("[]")
    with pytest.raises(ValueError, match="output must be a new folder"):
        folder(tmp_path).check()
    with pytest.raises(ValueError, match="output must be a folder, got the file"):
        SampleFolder(tmp_path / "out/mine.txt", "flat", PROMPTS, 1, {}).check(force=True)


@pytest.mark.parametrize(
    ("layout", "each", "prompts", "message"),
    [
        ("nine", 1, PROMPTS, "layout must be one of flat, geneval, dpg"),
        ("flat", 0, PROMPTS, "each must be at least 1"),
        ("geneval", 4, [Prompt("a")], "GenEval's metadata"),
        ("dpg", 5, PROMPTS, "each must be at most 4"),
        ("dpg", 4, [Prompt("a")], "must have names"),
        ("dpg", 4, [Prompt("a", "../b")], "must have names"),
        ("dpg", 4, [Prompt("a", "a"), Prompt("b", "a")], "different names"),
    ],
)
def test_bad_arguments(tmp_path, layout, each, prompts, message):
    with pytest.raises(ValueError, match=message):
        folder(tmp_path, layout, each, prompts)
