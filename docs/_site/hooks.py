"""What the documentation site adds to docs/: the pages that lie in the root of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Names of the pages on the site, by the files in the root."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages of the root. Their links into docs/ become links to the pages of the site."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for old, new in {"](docs/": "](", **{f"]({other})": f"]({PAGES[other]})" for other in PAGES}}.items():
            text = text.replace(old, new)
        files.append(File.generated(config, page, content=text))
    return files
