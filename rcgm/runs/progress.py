"""Progress of a run on a terminal or in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "counting", "duration"]


@contextlib.contextmanager
def counting(total: int, unit: str, *, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal while the context lasts; gives a function to call with finished units."""
    hidden = not enabled or not sys.stderr.isatty()
    with tqdm(total=total, unit=unit, dynamic_ncols=True, leave=False, disable=hidden) as bar:
        yield bar.update


class Progress:
    """A progress bar on a terminal; elsewhere, as in the log of a cluster job, one line per report.

    Args:
        total: steps of the run.
        done: steps of earlier parts of the run.
        enabled: False shows nothing.
    """

    def __init__(self, total: int, done: int, *, enabled: bool = True) -> None:
        self._total = total
        self._announced = False
        self._enabled = enabled
        terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True) if terminal else None

    def advance(self) -> None:
        """Count one more step."""
        if self._bar is not None:
            self._bar.update()

    def report(self, row: Mapping[str, Any], *, seconds_per_step: float) -> None:
        """Show the loss and the speed in ``row``; the first time, how long the run will take."""
        left = duration((self._total - row["step"]) * seconds_per_step)
        if not self._announced:
            self._announced = True
            self.say(f"about {left} for the {self._total - row['step']:,} steps that are left, without evaluations")
        loss = "none" if row["loss"] is None else f"{row['loss']:.4g}"
        speed = f"{row['images_per_second']:.0f}"
        if self._bar is not None:
            self._bar.set_postfix({"loss": loss, "images/s": speed}, refresh=False)
        else:
            self.say(f"step {row['step']}/{self._total}  loss {loss}  {speed} images/s  {left} left")

    def say(self, text: str) -> None:
        """Show a line of text."""
        if self._enabled:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """A time for people to read: ``40 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
