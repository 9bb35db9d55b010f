"""The GPU script: its steps, their limits, and what a run that is cut short leaves."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import accuracy, environment
from benchmarks.gpu_check import running
from benchmarks.gpu_check import steps as step_lists
from benchmarks.gpu_check.running import run
from benchmarks.gpu_check.steps import PARTS, ROOT, Step, steps


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "DRY_RUN_FOLDER", tmp_path)
    return tmp_path


def python(name: str, code: str, limit: float = 20.0) -> Step:
    return Step(name, [sys.executable, "-S", "-c", code], limit)


def written(folder: Path) -> dict:
    return json.loads((folder / "gpu_check_a.json").read_text())


def dry(wanted: list[Step], *, resume: bool = False, seconds: float = 60.0) -> int:
    return running.run_all("a", wanted, dry_run=True, resume=resume, seconds=seconds)


@pytest.mark.parametrize("part", PARTS)
def test_a_dry_run_has_the_steps_of_a_real_one(part):
    assert len(steps(part, True)) > 2
    assert [step.name for step in steps(part, True)] == [step.name for step in steps(part, False)]
    for step in steps(part, True) + steps(part, False):
        for module in (word for word in step.command if word.startswith("benchmarks.")):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("missing", ["pydantic", "pytest", "sklearn"])
def test_a_missing_package_costs_the_steps_that_need_it(monkeypatch, part, missing):
    find = step_lists.importlib.util.find_spec
    monkeypatch.setattr(step_lists.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    impossible = {step.name for step in steps(part, True) if step.impossible == f"not installed: {missing}"}
    of_training = {"a": set(), "b": {"steps", "steps_compiled"}, "c": {"training", "capacity"}}
    of_tests = {"a": set(), "b": set(), "c": {"cuda_tests", "triton_tests"}}
    assert impossible == (of_tests if missing == "pytest" else of_training)[part]


def test_a_late_step_is_stopped_with_its_processes_and_keeps_its_output(folder):
    child = "import subprocess, sys; print('begun', flush=True); "
    child += "subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])"
    began = time.perf_counter()
    entry = run(python("late", child), 1.5, dry_run=True)
    assert time.perf_counter() - began < 600  # it did not wait for the child
    assert entry["ok"] is False
    assert "begun" in entry["output"]
    assert "stopped after 2 s" in entry["output"]


def test_what_is_known_is_written_after_each_step(folder):
    look = f"import json; print(len(json.load(open({str(folder / 'gpu_check_a.json')!r}))['steps']))"
    code = dry([python("first", "print(1)"), python("second", look)], resume=False, seconds=60.0)
    assert code == 0
    assert [entry["output"].strip() for entry in written(folder)["steps"]] == ["1", "1"]
    assert written(folder)["passed"] is False  # there was no GPU


def test_without_time_nothing_is_begun_and_a_failed_build_ends_the_run(folder):
    assert dry([python("first", "print(1)")], resume=False, seconds=0.0) == 1
    assert written(folder)["steps"][0]["output"] == "no time was left"
    assert dry([python("build", "raise SystemExit(3)"), python("later", "print(1)")], resume=False, seconds=60.0) == 1
    assert [entry["name"] for entry in written(folder)["steps"]] == ["build"]


def test_a_resumed_run_leaves_out_what_succeeded(folder):
    counter = folder / "count"
    count = python("counted", f"open({str(counter)!r}, 'a').write('x')")
    failing = python("failing", "raise SystemExit(1)")
    assert dry([count, failing], resume=False, seconds=60.0) == 1
    assert dry([count, python("failing", "print(2)")], resume=True, seconds=60.0) == 0
    assert counter.read_text() == "x"
    found = written(folder)
    found["environment"]["commit"] = "another"
    (folder / "gpu_check_a.json").write_text(json.dumps(found))
    dry([count], resume=True, seconds=60.0)
    assert counter.read_text() == "xx"


def test_an_impossible_step_is_no_failure(folder):
    assert dry([Step("memcheck", ["none"], 1.0, impossible="not found")], resume=False, seconds=60.0) == 0
    assert written(folder)["steps"][0]["ok"] is None


def test_results_of_the_steps_go_to_the_folder_of_the_dry_run(folder):
    show = python("show", f"import os; print(os.environ[{environment.FOLDER_VARIABLE!r}])")
    dry([show], resume=False, seconds=60.0)
    assert written(folder)["steps"][0]["output"].strip() == str(folder)


def test_every_kernel_is_accurate_on_this_machine(folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "RESULTS", folder)
    with pytest.raises(SystemExit) as ended:
        accuracy.main(["--largest", "5000", "--name", "trial"])
    assert ended.value.code == 0
    rows = json.loads((folder / "trial.json").read_text())["rows"]
    assert {row["dtype"] for row in rows} == {"bfloat16", "float16", "float32"}
    assert {"interpolate", "advance", "ema_update_", "fused_loss, order 8, barron, gradient"} <= {
        row["operation"] for row in rows
    }
    assert max(row["error"] for row in rows) > 0.1  # what is allowed is not far from what happens


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch):
    right = accuracy.rcgm_kernels.advance

    def wrong(x, velocity, t, r, *, backend, **options):
        return right(x, velocity, t, r * (1.05 if backend != "reference" else 1), backend=backend, **options)

    monkeypatch.setattr(accuracy.rcgm_kernels, "advance", wrong)
    errors = [row["error"] for rows in accuracy.checks(accuracy.torch.device("cpu"), 10) for row in rows]
    assert max(errors) > 1
