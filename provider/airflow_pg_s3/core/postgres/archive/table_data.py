"""The table that each member of a directory archive belongs to, read from the COPY commands of the entries."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.toc import Entry, Toc
from airflow_pg_s3.core.postgres.encodings import decode_name

IDENTIFIER = rb'(?:[a-z_][a-z0-9_]*|"[^"]*(?:""[^"]*)*")'
"""Pattern of an identifier, as fmtId in PostgreSQL's string_utils.c writes it."""

_EACH_IDENTIFIER = re.compile(IDENTIFIER)
# A table without columns has no list, but the space before it is there.
_COPY = re.compile(
    rb"COPY (%(name)b)\.(%(name)b) (?:\((%(name)b(?:, %(name)b)*)\))? FROM stdin;\n" % {b"name": IDENTIFIER}
)


@dataclass(frozen=True)
class CopyTarget:
    """The table and columns in a COPY command of an archive, as unquoted bytes in the archive's encoding.

    :param columns: names in the order of the data; empty if the table has no columns.
    """

    schema: bytes
    name: bytes
    columns: tuple[bytes, ...]

    @property
    def quoted(self) -> bytes:
        """The table's qualified name, quoted."""
        return b"%b.%b" % (_quoted(self.schema), _quoted(self.name))

    @property
    def command(self) -> bytes:
        """The COPY command."""
        columns = b" (%b)" % b", ".join(map(_quoted, self.columns)) if self.columns else b""
        return b"COPY %b%b FROM STDIN" % (self.quoted, columns)


@dataclass(frozen=True, kw_only=True)
class TableData:
    """The table that a member's data is loaded into.

    :param columns: names in the order of the member's COPY text.
    :param through_root: whether the data is a partition's, and is loaded through this root of the partition tree.
    """

    schema: str
    name: str
    columns: list[str]
    through_root: bool


def copy_target(entry: Entry) -> CopyTarget:
    """Read the COPY command of an entry that holds a table's data.

    :raises IntegrityError: the entry has no COPY command as pg_dump writes it.
    """
    match = _COPY.fullmatch(entry.copy)
    if match is None:
        raise _no_copy(entry)
    schema, name, columns = match.groups()
    target = CopyTarget(
        _unquoted(schema), _unquoted(name), tuple(map(_unquoted, _EACH_IDENTIFIER.findall(columns or b"")))
    )
    if not all((target.schema, target.name, *target.columns)):
        raise _no_copy(entry)
    return target


def tables_of_members(toc: Toc) -> dict[str, TableData]:
    """Map the names of the files of table data to their tables.

    :param toc: a directory archive's table of contents.
    :raises IntegrityError: an entry has no COPY command as pg_dump writes it, or no file.
    """
    tables: dict[str, TableData] = {}
    for entry in toc.entries:
        if entry.kind == "TABLE DATA":
            if not entry.file:
                raise IntegrityError(f"the archive has no file for {_shown(entry)}")
            tables[entry.file] = _table_data(entry, toc.codec)
    return tables


def _table_data(entry: Entry, codec: str) -> TableData:
    target = copy_target(entry)
    named = [part.decode(codec, errors="surrogateescape") for part in (target.schema, target.name)]
    return TableData(
        schema=decode_name(target.schema, codec),
        name=decode_name(target.name, codec),
        columns=[decode_name(column, codec) for column in target.columns],
        # Newer versions of pg_dump also write a comment about this; those of before August 2023 do not.
        through_root=named != [entry.schema, entry.name],
    )


def _quoted(identifier: bytes) -> bytes:
    return b'"%b"' % identifier.replace(b'"', b'""')


def _unquoted(identifier: bytes) -> bytes:
    return identifier[1:-1].replace(b'""', b'"') if identifier.startswith(b'"') else identifier


def _no_copy(entry: Entry) -> IntegrityError:
    return IntegrityError(
        f"the archive's COPY command for {_shown(entry)} is not one that pg_dump would have written"
    )


def _shown(entry: Entry) -> str:
    return f"the data of {entry.schema}.{entry.name} (entry {entry.dump_id})"
