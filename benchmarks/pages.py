"""Writes the tables of README.md and of the pages under docs/, and the plots, from the result files.

    python -m benchmarks.pages            rewrite what stands between the markers
    python -m benchmarks.pages --check    fail if a page is not what the result files say

A table stands wherever a page has ``<!-- begin NAME -->`` and ``<!-- end NAME -->``, with a NAME of
``TABLES`` of one of the modules ``WITH_TABLES``. The plots go to docs/figures.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks import (
    costs,
    headline,
    memory_plans,
    number_tables,
    order_tables,
    own_images_table,
    published_loops,
    step_tables,
    tables,
    tuning_table,
)
from benchmarks.captioned_digits import tables as captioned_digits
from benchmarks.environment import FIGURES, ROOT, read

WITH_TABLES = (
    tables,
    number_tables,
    order_tables,
    step_tables,
    headline,
    costs,
    own_images_table,
    published_loops,
    tuning_table,
    memory_plans,
    captioned_digits,
)
TABLES = {name: make for module in WITH_TABLES for name, make in module.TABLES.items()}
BLOCK = re.compile(r"<!-- begin (?P<name>\S+) -->.*?<!-- end (?P=name) -->", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    stale = [page for page, text in texts.items() if with_tables(text) != text]
    if check:
        names = ", ".join(page.name for page in stale)
        sys.exit(f"out of date: {names}; run `python -m benchmarks.pages`" if stale else 0)
    for page in stale:
        page.write_text(with_tables(texts[page]), encoding="utf-8")
    from benchmarks.plots import PLOTS  # matplotlib, which --check does without

    for name, (source, plot) in PLOTS.items():
        found = read(source)
        if found is not None:
            plot(found, FIGURES / f"{name}.png")


def pages() -> list[Path]:
    """README.md and the pages under docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def with_tables(text: str) -> str:
    """``text`` with every marked block replaced by its table.

    Raises:
        ValueError: a block has a name for which there is no table.
    """

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in TABLES:
            raise ValueError(f"block {name!r} must be one of {', '.join(TABLES)}")
        return f"<!-- begin {name} -->\n{TABLES[name]()}\n<!-- end {name} -->"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    main()
