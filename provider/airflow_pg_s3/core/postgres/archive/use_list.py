"""Lists of entries for ``pg_restore --use-list``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from airflow_pg_s3.core.postgres.client_versions import ClientTools

_LISTED = re.compile(rb"^(\d+); ", re.MULTILINE)


def use_list(file: Path, dump_ids: Iterable[int]) -> str:
    """Write a list of entries for pg_restore to restore, in this order; return the option that names the file."""
    file.write_text("".join(f"{number};\n" for number in dump_ids))
    return f"--use-list={file}"


def listed_ids(archive: Path, *, tools: ClientTools, arguments: Sequence[str] = ()) -> list[int]:
    """Return the dump ids of the entries that pg_restore restores with some options, in its order.

    :raises ClientProgramError: pg_restore cannot read the archive, or does not know the options.
    """
    # Each entry has one line, as pg_restore replaces line breaks in names by spaces.
    return [int(number) for number in _LISTED.findall(tools.ask_pg_restore("--list", *arguments, str(archive)))]
