"""Lists of entries for ``pg_restore --use-list``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from airflow_pg_s3.core.postgres.client_tools import ClientTools

_LISTED = re.compile(rb"^(\d+); ", re.MULTILINE)


def use_list(file: Path, dump_ids: Iterable[int]) -> str:
    """Write down which entries pg_restore is to take, in this order, and return the option that says so."""
    file.write_text("".join(f"{number};\n" for number in dump_ids))
    return f"--use-list={file}"


def listed_ids(archive: Path, *, tools: ClientTools, arguments: Sequence[str] = ()) -> list[int]:
    """Ask pg_restore which entries some options leave, in the order of restoring.

    :return: dump ids.
    :raises ClientProgramError: pg_restore cannot read the archive, or does not know the options.
    """
    # Names are on their entry's line, as pg_restore makes spaces of line breaks.
    return [int(number) for number in _LISTED.findall(tools.ask_pg_restore("--list", *arguments, str(archive)))]
