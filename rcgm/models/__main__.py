"""``python -m rcgm.models``: the sizes of diffusion transformers, and which attention can be used here."""

from __future__ import annotations

import torch

from rcgm.models import PRESETS, DiT, attention_backends

__all__ = ["presets_table"]


def presets_table() -> str:
    """The presets without a publisher's prefix by size, as a table in Markdown.

    Parameters are those of the patch of 2, for 1000 classes and latents of 4 channels, 32x32.
    """
    lines = ["| size | patches | width | depth | heads | parameters, million |", "|---|---|---|---|---|---|"]
    sizes: dict[str, list[str]] = {}
    for preset in PRESETS:
        if "-" not in preset:
            size, _, patch = preset.partition("/")
            sizes.setdefault(size, []).append(patch)
    for size, patches in sizes.items():
        with torch.device("meta"):
            network = DiT.from_preset(f"{size}/2", input_size=32, in_channels=4, num_classes=1000)
        count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        numbers = [network.arguments[name] for name in ("hidden_size", "depth", "num_heads")]
        cells = [size, ", ".join(patches), *map(str, numbers), f"{count:.3g}" if count < 100 else f"{count:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    print(presets_table())
    print()
    for name, missing in attention_backends().items():
        print(f"attention {name}: {'available' if missing is None else missing}")


if __name__ == "__main__":
    main()
