"""How commands speak: lines on standard output, a bar on a terminal; and how they read whole numbers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def say(line: str) -> None:
    """Print a line. That nobody reads it does not change how the command ended."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it closes standard output at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress_bar(unit: str = "images") -> AbstractContextManager[tqdm[Any] | None]:
    """Return a bar on standard error, or None where that is no terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from tqdm import tqdm

    return tqdm(unit=f" {unit}", dynamic_ncols=True, leave=False)


@contextmanager
def progress_of_total(unit: str = "images") -> Iterator[Callable[[int, int], None] | None]:
    """Yield what moves a bar, called with how many more are done and how many there are; None without a terminal."""
    with progress_bar(unit) as bar:
        if bar is None:
            yield None
            return

        def advance(images: int, total: int) -> None:
            bar.total = total
            bar.update(images)

        yield advance


def whole(least: int) -> Callable[[str], int]:
    """Return what reads a whole number of at least ``least`` from the command line."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return whole_number
