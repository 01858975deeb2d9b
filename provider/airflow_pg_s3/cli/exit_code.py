"""Exit codes; docs/command-line.md documents them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command has ended."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    UNSURE = 3
    """It could not verify, or the newest backup is too old."""
