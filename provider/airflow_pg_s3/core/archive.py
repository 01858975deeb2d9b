"""Which table each member of a directory archive belongs to.

pg_restore itself says so: given toc.dat and empty members, it prints for each table the file and the COPY command
that it would run. So the format of toc.dat, which differs between majors, is never parsed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.encodings import decode_name
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.spool import TOC

_TABLE_DATA = re.compile(
    rb"^-- TOC entry \d+ .*\n(?:-- .*\n)*?-- File: (\d+\.dat)\n--\n\n(-- load via partition root .*\n\n)?COPY ",
    re.MULTILINE,
)
_IDENTIFIER = re.compile(rb'"((?:[^"]|"")*)"|([^\s".,()]+)')


@dataclass(frozen=True, kw_only=True)
class TableData:
    """Where the data of one table goes.

    :param columns: in the order of the member's COPY text.
    :param through_root: the table is the root of a partition whose data the member is.
    """

    schema: str
    name: str
    columns: list[str]
    through_root: bool


def lay_out(folder: Path, toc: Path, members: Iterable[str]) -> None:
    """Make an archive of empty members.

    :param folder: an empty folder to make it in.
    :param toc: the archive's toc.dat, on the same filesystem.
    :param members: names of the archive's files.
    """
    # No symbolic link: from 15.20 and 17.12 on, pg_restore opens nothing but regular files.
    (folder / TOC).hardlink_to(toc)
    for member in members:
        # Large objects are listed in blobs*.toc only, so that without them none is asked for.
        if member != TOC and not member.startswith("blob_"):
            (folder / member).touch()


def tables_of_members(folder: Path, *, tools: ClientTools, codec: str) -> dict[str, TableData]:
    """Map the file names of table data to their tables.

    :param folder: as `lay_out` has made it.
    :param codec: Python codec of the archive's encoding; anything for SQL_ASCII, where names have none.
    :raises ClientProgramError: pg_restore cannot read the archive.
    """
    script = tools.ask_pg_restore("--verbose", "--data-only", "--file=-", str(folder))
    return parse_copy_commands(script, codec=codec)


def parse_copy_commands(script: bytes, *, codec: str) -> dict[str, TableData]:
    """Read the COPY commands of a data-only script without data.

    :raises PgS3Error: two commands claim one file.
    """
    tables: dict[str, TableData] = {}
    position = 0
    while match := _TABLE_DATA.search(script, position):
        member = match.group(1).decode("ascii")
        if member in tables:
            # Some object's name imitates pg_restore's comments.
            raise PgS3Error(f"pg_restore names two tables for the archive's member {member}")
        table, position = _parse_copy(script, match.end(), codec, through_root=match.group(2) is not None)
        tables[member] = table
    return tables


def _parse_copy(script: bytes, position: int, codec: str, *, through_root: bool) -> tuple[TableData, int]:
    schema, position = _identifier(script, position, codec)
    name, position = _identifier(script, position + 1, codec)
    columns: list[str] = []
    position += 1
    # A table without columns has no list here, only a second space.
    if script[position : position + 1] == b"(":
        while script[position : position + 1] != b")":
            # Behind "(" directly, behind "," and a space.
            position += 2 if columns else 1
            column, position = _identifier(script, position, codec)
            columns.append(column)
        position += 1
    if not script.startswith(b" FROM stdin;", position):
        raise PgS3Error(f"cannot read pg_restore's COPY command for {schema}.{name}")
    return TableData(schema=schema, name=name, columns=columns, through_root=through_root), position


def _identifier(script: bytes, position: int, codec: str) -> tuple[str, int]:
    match = _IDENTIFIER.match(script, position)
    if match is None:
        raise PgS3Error(f"cannot read an identifier of pg_restore: {script[position : position + 80]!r}")
    quoted, plain = match.groups()
    text = plain if quoted is None else quoted.replace(b'""', b'"')
    return decode_name(text, codec), match.end()
