"""A run begins in a folder of its own."""

import pytest

from rcgm.runs import RunFolder
from rcgm.training import step as step_module
from rcgm.training import train

TINY = (
    "{steps: 2, batch_size: 4, data: {name: two_moons, size: 50}, model: {name: mlp, width: 8, depth: 1}, "
    "objective: {name: rcgm}, logging: {tensorboard: false}, sample: {every: 0}, evaluate: {at_end: false}}"
)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "summary.json", "loss.png"])
def test_files_of_ones_own_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine: 1")
    with pytest.raises(ValueError, match=rf"holds files that no run has written \({name}\): move them, or choose"):
        RunFolder(tmp_path).require_no_run()
    assert (tmp_path / name).read_text() == "mine: 1"


def test_other_files_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).require_no_run()
    RunFolder(tmp_path / "new").require_no_run()


def test_what_an_earlier_version_left_before_its_first_checkpoint_is_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text(TINY)
    (tmp_path / "metrics.jsonl").write_text("")
    RunFolder(tmp_path).require_no_run()


def test_a_run_that_failed_before_its_first_checkpoint_is_begun_again(tmp_path, monkeypatch):
    from rcgm.config import parse_config
    from rcgm.config.yaml_text import parse_yaml

    config = parse_config(parse_yaml(TINY))

    def broken(*arguments, **options):
        raise ValueError("no step")

    with monkeypatch.context() as patch:
        patch.setattr(step_module.TrainStep, "__call__", broken)
        with pytest.raises(ValueError, match="no step"):
            train(config, tmp_path, show_progress=False)
    assert (tmp_path / "config.yaml").is_file()
    assert train(config, tmp_path, show_progress=False)["steps"] == 2
