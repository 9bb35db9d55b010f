"""The comparison of whole runs by one process and by several."""

from __future__ import annotations

import json

from benchmarks import digit_processes, environment


def test_what_is_kept_of_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    for seed, processes in ((1, 2), (1, 1), (0, 2)):
        run = tmp_path / f"run_{seed}_{processes}"
        run.mkdir()
        summary = {"config": {"seed": seed}, "processes": processes, "steps": 400, "evaluation": {"1": {"a": seed}}}
        (run / "summary.json").write_text(json.dumps(summary))
        records = [{"step": step, "loss": step / processes} for step in range(50, 401, 50)]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*records, {"step": 400, "evaluated": 1}])))
    digit_processes.main([str(tmp_path / name) for name in ("run_1_2", "run_1_1", "run_0_2")])
    rows = json.loads((tmp_path / "digit_processes.json").read_text())["rows"]
    assert [(row["seed"], row["processes"]) for row in rows] == [(0, 2), (1, 1), (1, 2)]
    assert rows[1] == {
        "seed": 1, "processes": 1, "metrics": {"1": {"a": 1}}, "losses": {"50": 50.0, "300": 300.0, "400": 400.0},
    }  # fmt: skip
