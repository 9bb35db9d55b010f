"""What the command line says where the disk or the memory is full, and what it checks before any work."""

import errno

import pytest
import torch

from rcgm.cli import main
from rcgm.training import step as step_module


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "{steps: 2, batch_size: 4, data: {name: two_moons, size: 50, labels: true}, model: {name: mlp, width: 8, "
        "depth: 1}, objective: {name: rcgm}, logging: {tensorboard: false}, sample: {every: 0}, "
        "evaluate: {at_end: false}}"
    )
    return path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk for '{output}': free some"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "no space left on the disk for '/x/y'"),
        (MemoryError(), "not enough main memory: make batch_size smaller"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough main memory",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough GPU memory: make batch_"),
    ],
)
def test_a_full_disk_or_memory_is_one_line(tmp_path, tiny, monkeypatch, capsys, error, message):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(step_module.TrainStep, "__call__", fails)
    output = tmp_path / "run"
    assert main(["train", str(tiny), "--output", str(output)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rcgm: error: " + message.format(output=output))
    with pytest.raises(type(error)):
        main(["train", str(tiny), "--output", str(output), "--traceback"])


def test_other_errors_of_the_program_keep_their_traceback(tmp_path, tiny, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(step_module.TrainStep, "__call__", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", str(tiny), "--output", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guidance", "nan"], "argument --guidance: needs a finite number, got 'nan'"),
        (["--guidance", "inf"], "argument --guidance: needs a finite number, got 'inf'"),
        (["--guidance", "much"], "argument --guidance: needs a finite number, got 'much'"),
        (["--seed", str(2**64)], "argument --seed: needs a whole number below 2^64"),
        (["--seed", "-1"], "argument --seed: needs whole numbers of at least 0"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_numbers_are_checked_before_anything_is_loaded(command, words, message, capsys):
    with pytest.raises(SystemExit):
        main([command, "no-such-run", *words])
    assert message in capsys.readouterr().err


def test_outputs_are_checked_before_sampling(tmp_path, capsys):
    for option, value, message in (
        ("--output", str(tmp_path), "--output must be a file, got the folder"),
        ("--output", "samples.tiff", "--output must end in .png, got 'samples.tiff'"),
        ("--npz", str(tmp_path), "--npz must be a file, got the folder"),
        ("--npz", "samples.npy", "--npz must end in .npz, got 'samples.npy'"),
    ):
        assert main(["sample", "no-such-run", option, value]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sample.every=1", "sample.guidance=2"], "sample.guidance must be 1 for a network that is trained with"),
        (["evaluate.at_end=true", "evaluate.guidance=2"], "evaluate.guidance must be 1 for a network that is trained"),
        (["data.labels=false", "evaluate.every=1", "evaluate.guidance=2"], "must be 1 for a network without classes"),
        (["sample.every=1", "sample.decoder=nowhere"], "decoder must be left out for data that are no latents"),
        (["evaluate.at_end=true", "evaluate.features=nowhere.pth"], "nowhere.pth"),
    ],
)
def test_what_can_be_known_at_the_start_is_said_at_the_start(tmp_path, tiny, capsys, monkeypatch, overrides, message):
    monkeypatch.setattr(step_module.TrainStep, "__call__", None)  # not one step is made
    assert main(["train", str(tiny), *overrides, "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_says_how_long_it_will_take(tmp_path, tiny, capsys):
    assert main(["train", str(tiny), "steps=4", "logging.every=2", "--output", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("about 0 s for the 2 steps that are left") for line in lines)
    assert any(line.startswith("step 2/4") and line.endswith("left") for line in lines)


def test_a_change_needs_a_run_to_go_on_with(tiny, capsys):
    assert main(["train", str(tiny), "--allow-change", "optimizer.lr"]) == 2
    assert "--allow-change needs --resume" in capsys.readouterr().err
