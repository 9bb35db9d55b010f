"""The benchmark that computes the memory of published networks."""

from __future__ import annotations

import json

import pytest

from benchmarks import environment, memory_plans

SMALL = {
    "family": "sd3",
    "config": {
        "_class_name": "SD3Transformer2DModel", "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4,
        "num_layers": 9, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16,
        "joint_attention_dim": 12, "pooled_projection_dim": 10, "pos_embed_max_size": 16, "qk_norm": "rms_norm",
        "dual_attention_layers": [0, 1, 2, 3],
    },
    "latents": [4, 16, 16],
    "text": [6, 12],
    "pooled": 10,
}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(memory_plans.NETWORKS, "sd35_medium", SMALL)
    return "sd35_medium"


def test_a_few_blocks_stand_for_all(small):
    row = memory_plans.computed(small, "none", "JVP with gradient")
    whole = memory_plans.peaks_of(small, "none", "JVP with gradient", (4, 5))
    for cards, peak in zip(memory_plans.CARDS, whole, strict=True):
        assert sum(row["peaks"][str(cards)].values()) == pytest.approx(sum(peak.values()), rel=0.01)


def test_blocks_of_each_kind():
    assert memory_plans.blocks_of(SMALL["config"]) == (4, 5)
    changed = memory_plans.with_blocks(SMALL["config"], (2, 1))
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
