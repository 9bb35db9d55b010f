"""Signals stop a run after the step at hand, with a checkpoint."""

import signal

import pytest

from rcgm.cli import main
from rcgm.runs import latest_checkpoint
from rcgm.training import TrainingInterrupted, train
from rcgm.training import step as step_module
from rcgm.training.interrupts import StopRequest
from tests.support.same_run import assert_same_run


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """The default handlers: what starts in the background or under nohup inherits signals that are ignored."""
    default = dict.fromkeys([signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2], signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in default.items()}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_stops_after_the_step_and_saves_it(tmp_path, tiny_config, monkeypatch):
    config = tiny_config()
    train(config, tmp_path / "straight", show_progress=False)
    original = step_module.TrainStep.__call__

    def interrupt(self, step, *arguments, **options):
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return original(self, step, *arguments, **options)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(step_module.TrainStep, "__call__", interrupt)
        with pytest.raises(TrainingInterrupted, match="stopped after step 7 of 12"):
            train(config, tmp_path / "stopped", show_progress=False)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert latest_checkpoint(tmp_path / "stopped/checkpoints").name == "step_00000007"
    train(config, tmp_path / "stopped", resume=True, show_progress=False)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_warnings_of_a_terminal_or_a_scheduler_may_come_again(name):
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with StopRequest() as stop:
        assert not stop.agreed()
        for _ in range(3):
            signal.raise_signal(getattr(signal, name))
            assert stop.agreed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers == {number: signal.getsignal(number) for number in signal.valid_signals()}


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.agreed()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_the_run_with_a_line(tmp_path, tiny_yaml, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(step_module.TrainStep, "__call__", interrupt)
    assert main(["train", str(tiny_yaml), "--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "rcgm: error: interrupted"
