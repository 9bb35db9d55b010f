"""The page on networks: its table is computed, and its names are those of the code."""

import re
from pathlib import Path

from rcgm.models import PRESETS, DiT, attention_backends
from rcgm.models.__main__ import main, presets_table
from rcgm.models.norms import NORMS
from rcgm.models.published import LAYOUTS

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()


def test_the_table_is_what_the_command_prints(capsys):
    assert presets_table() in PAGE
    main()
    printed = capsys.readouterr().out
    assert printed.startswith(presets_table())
    assert re.findall(r"attention (\w+): ", printed) == list(attention_backends())
    assert "attention sdpa: available\n" in printed


def test_every_choice_is_named():
    for name in (*attention_backends(), *NORMS, *LAYOUTS):
        assert f"`{name}`" in PAGE
    named = set(re.findall(r"preset: ([\w/-]+)|from_preset\(\"([\w/-]+)", PAGE))
    assert named and all((first or second) in PRESETS for first, second in named)
    for setting in re.findall(r"^\| `(\w+)` \|", PAGE[: PAGE.index("## Sizes")], re.MULTILINE):
        assert setting == "preset" or setting in DiT.from_preset("nano/2", input_size=8, in_channels=1).arguments
