"""What commands print on standard output. Standard library only."""

from __future__ import annotations

import os
import sys


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
