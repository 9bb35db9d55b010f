"""The benchmark that computes the memory of published networks."""

from __future__ import annotations

import json

from benchmarks import environment, memory_plans

SMALL = {"num_layers": 9, "dual_attention_layers": [0, 1, 2, 3]}


def test_a_few_blocks_stand_for_all():
    def peaks(blocks: tuple[int, ...]) -> list[dict[str, float]]:
        assert sum(blocks) <= 9 or blocks == (40, 30)
        return [{"a": 5.0 + 3 * blocks[0], "b": 2.0 * blocks[1]}, {"a": 1.0, "b": blocks[0] + 7.0 * blocks[1]}]

    assert memory_plans.grown(peaks, (40, 30)) == peaks((40, 30))


def test_blocks_of_each_kind():
    assert memory_plans.blocks_of(SMALL) == (4, 5)
    changed = memory_plans.with_blocks(SMALL, (2, 1))
    assert (changed["num_layers"], changed["dual_attention_layers"]) == (3, [0, 1])
    assert memory_plans.blocks_of({"num_layers": 7}) == (7,)
    assert memory_plans.with_blocks({"num_layers": 7}, (3,)) == {"num_layers": 3}


def test_the_table_says_what_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    gib = 2**30
    row = {"network": "qwen_image", "objective": "order 2", "checkpointing": "none", "rows": 1}
    other = {**row, "objective": "JVP with gradient", "problem": "RuntimeError: no"}
    rows = [{**row, "peaks": {"1": {"activations": 75 * gib}, "8": {"activations": 20 * gib}}}, other]
    where = {"device": "a processor", "cores": 1, "torch": "2", "commit": "c", "date": "d"}
    (tmp_path / "memory_plans.json").write_text(json.dumps({"environment": where, "card": 80 * gib, "rows": rows}))
    table = memory_plans.memory_table()
    rest = " | not computed | not computed | cannot be run |"
    assert "| Qwen-Image LoRA, 512 pixels | 1 | 1 | none | not computed | **75.0**" + rest in table
    assert "| Qwen-Image LoRA, 512 pixels | 8 | 1 | none | not computed | 20.0" + rest in table
