"""What a text-to-image configuration needs to start: a tiny network of its class, and pairs that it takes."""

from __future__ import annotations

from pathlib import Path

from rcgm.config import TrainConfig
from tests.support.encoded_pairs import write_pairs
from tests.support.tiny_networks import FAMILIES


def text_words(published: TrainConfig, folder: Path) -> list[str]:
    """Write both to ``folder``; returns the settings that name them."""
    family = FAMILIES.get(published.model.name, FAMILIES["sana"])
    cond = family.cond(1)
    write_pairs(
        folder / "pairs",
        [(family.latents, 12)],
        width=cond["text"].shape[2],
        masked="mask" in cond,
        pooled=cond["pooled"].shape[1] if "pooled" in cond else 0,
    )
    words = [f"data.path={folder / 'pairs'}"]
    if published.model.name in FAMILIES:
        family.build().save_pretrained(folder / "network" / "transformer")
        words.append(f"model.path={folder / 'network'}")
    if published.tune == "lora":
        words.append("lora.rank=2")
    return words
