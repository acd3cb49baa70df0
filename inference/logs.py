"""Where the log of a command goes. Called by entry points, never at import."""

from __future__ import annotations

import logging
import sys


def log_to_standard_error(level: int) -> None:
    """Log from a level on; sentences alone, or with where they come from when details are wanted."""
    logging.basicConfig(
        level=level,
        format="%(levelname)s %(name)s: %(message)s" if level <= logging.DEBUG else "%(message)s",
        stream=sys.stderr,
    )
