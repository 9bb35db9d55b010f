import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.cli import main
from rcgm.evaluation import report as digit_report
from rcgm.evaluation import train_digit_classifier

ROOT = Path(__file__).parents[2]

DIGITS = """
steps: 4
batch_size: 8
data: {name: digits}
model: {name: dit, preset: nano/2}
objective: {name: rcgm, order: 2, label_dropout: 0.2}
ema: {decay: 0.9}
checkpoint: {every: 2}
logging: {every: 2, tensorboard: false}
sample: {every: 4, steps: [1], count: 10}
evaluate: {at_end: false}
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "digits.yaml").write_text(DIGITS)
    assert main(["train", str(folder / "digits.yaml"), "--output", str(folder / "run")]) == 0
    return folder / "run"


def python(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["train", "sample", "evaluate", "info", "rcgm train configs/digits.yaml"]),
        (["train"], ["--resume", "--output", "example:", "optimizer.lr=5e-4", "Ctrl-C"]),
        (["sample"], ["--steps", "--classes", "--guidance", "--npz", "example:"]),
        (["evaluate"], ["--steps", "--count", "JSON", "example:"]),
        (["info"], ["example:"]),
    ],
)
def test_help(command, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []


def test_help_imports_nothing_of_the_training_packages():
    program = (
        "import sys\nfrom rcgm.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'pydantic', 'yaml', 'matplotlib', 'safetensors', 'sklearn', 'tensorboard', 'rcgm.training'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    assert python(program).stderr.strip() == "[]"


def test_a_missing_package_says_how_to_get_it(tmp_path):
    program = "import sys\nsys.modules['yaml'] = None\nfrom rcgm.cli import main\nsys.exit(main(['train', 'x.yaml']))"
    finished = python(program)
    assert finished.returncode == 2
    assert finished.stderr == "rcgm: error: this command needs the package 'yaml': pip install 'rcgm[train]'\n"


def test_it_runs_as_a_module():
    finished = subprocess.run(
        [sys.executable, "-m", "rcgm.cli", "train", "no.yaml"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 2
    assert finished.stderr == "rcgm: error: no configuration file 'no.yaml'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no.yaml"], "no configuration file 'no.yaml'"),
        (["train", "{config}", "optimizer.lrr=1"], "unknown key 'optimizer.lrr' (did you mean 'optimizer.lr'?"),
        (["train", "{config}", "--output", "{run}"], "holds a run: go on with it by --resume"),
        (["train", "{config}", "--output", "{empty}", "--resume"], "no complete checkpoint"),
        (["sample", "{empty}"], "no complete checkpoint"),
        (["sample", "{empty}/nowhere"], "no run folder"),
        (["sample", "{run}", "--classes", "3,12"], "classes must be from 0 to 9, got [12]"),
        (["sample", "{run}", "--checkpoint", "3"], "no checkpoint of step 3"),
        (["sample", "{run}", "--prompt", "a"], "prompts must be left out for a run without captions"),
    ],
)
def test_errors_of_the_user_are_one_line_and_exit_with_2(arguments, message, run_dir, tmp_path, capsys):
    names = {"config": run_dir.parent / "digits.yaml", "run": run_dir, "empty": tmp_path}
    assert main([argument.format(**names) for argument in arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("rcgm: error: ")
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["sample", "x", "--steps", "0"],
        ["sample", "x", "--steps", "1;2"],
        ["sample", "x", "--classes", "-1"],
        ["sample", "x", "--count", "0"],
        ["sample", "x", "--count", "1,2"],
        ["sample", "x", "extra"],
        ["train", "x.yaml", "--unknown"],
    ],
)
def test_words_that_are_not_understood_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: rcgm" in capsys.readouterr().err


def test_traceback_is_shown_where_it_is_asked_for():
    with pytest.raises(FileNotFoundError):
        main(["train", "no.yaml", "--traceback"])


def test_overrides_may_stand_before_and_after_options(run_dir, capsys):
    config = str(run_dir.parent / "digits.yaml")
    assert main(["train", config, "stepz=1", "--output", "x", "batchsize=2"]) == 2
    shown = capsys.readouterr().err
    assert "'stepz'" in shown
    assert "'batchsize'" in shown


def test_output_is_named_after_the_configuration(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(run_dir.parent / "digits.yaml"), "steps=1", "sample.every=0"]) == 0
    assert (tmp_path / "runs/digits/summary.json").is_file()
    assert "1 steps in" in capsys.readouterr().out


def test_train_resume_goes_on(run_dir, tmp_path, capsys):
    config = str(run_dir.parent / "digits.yaml")
    assert main(["train", config, "steps=2", "--output", str(tmp_path / "run")]) == 0
    assert main(["train", config, "steps=4", "--output", str(tmp_path / "run"), "--resume"]) == 0
    assert (
        main(["sample", str(tmp_path / "run"), "--output", str(tmp_path / "a.png"), "--npz", str(tmp_path / "a.npz")])
        == 0
    )
    assert main(["sample", str(run_dir), "--output", str(tmp_path / "b.png"), "--npz", str(tmp_path / "b.npz")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "step 4/4" in capsys.readouterr().err


def test_divergence_exits_with_1(run_dir, tmp_path, capsys):
    config = str(run_dir.parent / "digits.yaml")
    overrides = ["optimizer.lr=1e30", "steps=50", "objective.clip=null", "sample.every=0"]
    assert main(["train", config, *overrides, "--output", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("rcgm: error: the ")
    assert "checkpoint" in shown


def test_samples_are_drawn_by_class_and_number_of_steps(run_dir, tmp_path, capsys):
    picture, arrays = tmp_path / "samples.png", tmp_path / "samples.npz"
    arguments = ["sample", str(run_dir), "--steps", "1,3", "--count", "5", "--classes", "7,2", "--seed", "4"]
    assert main([*arguments, "--output", str(picture), "--npz", str(arrays)]) == 0
    assert capsys.readouterr().out.split() == [str(picture), str(arrays)]
    with Image.open(picture) as image:
        assert image.width > 100
    with np.load(arrays) as content:
        assert sorted(content) == ["labels", "steps_1", "steps_3"]
        assert content["labels"].tolist() == [7, 2, 7, 2, 7]
        assert content["steps_1"].shape == (5, 1, 8, 8)
        first = content["steps_1"]
    assert main([*arguments, "--output", str(picture), "--npz", str(arrays)]) == 0
    with np.load(arrays) as content:
        assert np.array_equal(content["steps_1"], first)
    assert main([*arguments[:-1], "5", "--output", str(picture), "--npz", str(arrays)]) == 0
    with np.load(arrays) as content:
        assert not np.array_equal(content["steps_1"], first)


def test_samples_of_the_data_are_drawn_beside_them(run_dir, tmp_path):
    heights = {}
    for words in ([], ["--data"]):
        picture = tmp_path / "samples.png"
        assert main(["sample", str(run_dir), "--steps", "1", "--count", "6", "--output", str(picture), *words]) == 0
        with Image.open(picture) as image:
            heights[len(words)] = image.height
    assert heights[1] > heights[0] + 40  # one more row


def test_guidance_changes_the_samples(run_dir, tmp_path):
    arrays = []
    for weight in ("1", "3"):
        path = tmp_path / f"{weight}.npz"
        arguments = ["sample", str(run_dir), "--steps", "1", "--count", "4", "--guidance", weight]
        assert main([*arguments, "--output", str(tmp_path / "s.png"), "--npz", str(path)]) == 0
        with np.load(path) as content:
            arrays.append(content["steps_1"])
    assert not np.array_equal(*arrays)


def test_evaluation_is_json(run_dir, capsys, monkeypatch):
    monkeypatch.setattr(digit_report, "train_digit_classifier", lambda: train_digit_classifier(epochs=1))
    assert main(["evaluate", str(run_dir), "--steps", "1,2", "--count", "20"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["checkpoint"] == 4
    assert set(report["steps"]) == {"1", "2"}
    assert 0 <= report["steps"]["1"]["class_accuracy"] <= 1
    assert report["steps"]["1"]["frechet_distance"] > 0


def test_info_tells_versions(capsys):
    assert main(["info"]) == 0
    assert torch.__version__ in capsys.readouterr().out
