"""Tables and ages, for people who read a log."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> list[str]:
    """Lay a table out in lines, its columns aligned.

    :param numbers: names of the columns that are aligned to the right.
    """
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
        for row in table
    ]


def human_age(seconds: float) -> str:
    """Say how old something is, to a precision that people care for; no sign."""
    for unit, unit_seconds, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if abs(seconds) < most * unit_seconds:
            return f"{abs(seconds) // unit_seconds:.0f} {unit}"
    return f"{abs(seconds) // 86400:.0f} d"
