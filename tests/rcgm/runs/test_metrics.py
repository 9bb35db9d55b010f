import json

import pytest

from rcgm.runs import CheckpointError
from rcgm.runs.metrics import EvaluationsFile, MetricsFile, TensorBoard, read_metrics


def test_rows_after_the_checkpoint_are_dropped_when_a_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    for step in (10, 20, 30):
        metrics.append({"step": step, "loss": 1 / step})
    metrics.close()
    resumed = MetricsFile(path, done=20)
    resumed.append({"step": 30, "loss": 0.5})
    resumed.close()
    assert read_metrics(path) == [
        {"step": 10, "loss": 1 / 10},
        {"step": 20, "loss": 1 / 20},
        {"step": 30, "loss": 0.5},
    ]


def test_a_last_line_cut_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1]


def test_any_other_broken_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nxx\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2, is not JSON"):
        read_metrics(path)


def test_evaluations_are_kept_by_step(tmp_path):
    path = tmp_path / "evaluations.json"
    evaluations = EvaluationsFile(path)
    evaluations.set(10, {"1": {"distance": 3.0}})
    evaluations.set(20, {"1": {"distance": 2.0}})
    EvaluationsFile(path, done=10).set(15, {"1": {"distance": 2.5}})
    assert json.loads(path.read_text()) == {"10": {"1": {"distance": 3.0}}, "15": {"1": {"distance": 2.5}}}


def test_tensorboard_writes_scalars_and_pictures(tmp_path):
    import numpy as np
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.scalars({"step": 3, "loss": 0.5}, "train")
    board.picture("samples", np.zeros((4, 4, 3), dtype=np.uint8), 3)
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Scalars("train/loss")
    assert (event.step, event.value) == (3, 0.5)
    assert events.Tags()["images"] == ["samples"]


def test_tensorboard_turned_off_writes_nothing(tmp_path):
    board = TensorBoard(tmp_path / "board", enabled=False)
    board.scalars({"step": 1, "loss": 1.0}, "train")
    board.close()
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"step": 1}\n\xff\xfe\n', "metrics.jsonl' is not UTF-8"),
        (b"[1, 2]\n", "line 1, is no object with a 'step'"),
        (b'{"loss": 1}\n', "line 1, is no object with a 'step'"),
        (b'{"step": "x"}\n', "line 1, is no object with a 'step'"),
    ],
)
def test_rows_that_are_none_are_named(tmp_path, content, message):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        MetricsFile(tmp_path / "metrics.jsonl", done=5)


@pytest.mark.parametrize("content", [b"[1]", b'{"x": {}}', b"\xff", b"{"])
def test_evaluations_that_are_none_are_named(tmp_path, content):
    (tmp_path / "evaluations.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"evaluations\.json' is "):
        EvaluationsFile(tmp_path / "evaluations.json", done=5)
