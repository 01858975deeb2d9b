"""An archive's contents and source, read from its table of contents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.table_data import IDENTIFIER
from airflow_pg_s3.core.postgres.archive.toc import Entry, Toc, TocCutShort, read_toc
from airflow_pg_s3.core.postgres.archive.use_list import listed_ids
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.workspace.resources import require_free_space

_FIRST_TRY_BYTES = 1 << 16
# Each try begins anew; with this factor, all tries together read a third more than the last one alone.
_NEXT_TRY = 4
_LIMIT_BYTES = 1 << 30
_VERSION = re.compile(r"\d+(?:\.\d+)?")
_CREATE = re.compile(rb"CREATE DATABASE %b WITH TEMPLATE = template0" % IDENTIFIER)
_OPTION = re.compile(r" (?P<key>[A-Z_]+) = (?:(?P<word>\w+)|'(?P<text>(?:[^']|'')*)')")


@dataclass(frozen=True, kw_only=True)
class ArchiveSummary:
    """A summary of an archive's table of contents.

    :param entries: the entries to restore.
    :param version: version of the server that was dumped, such as ``16.14``.
    :param server: that server, with the database's encoding and locale; None if the archive does not hold these (a
        dump of some tables).
    """

    entries: list[Entry]
    version: str
    server: Server | None

    @property
    def tables(self) -> int:
        """Number of tables whose data the archive holds."""
        return sum(entry.kind == "TABLE DATA" for entry in self.entries)

    @property
    def has_partition_keys(self) -> bool:
        """True if partitions have keys that belong to their partitioned tables' keys."""
        return any(entry.kind == "INDEX ATTACH" for entry in self.entries)


def read_beginning(chunks: Iterator[bytes], path: Path) -> Toc:
    """Write the beginning of a stream to a file, up to the end of the table of contents and little more.

    :param chunks: an archive in format custom or tar.
    :raises IntegrityError: the table of contents has no end, or holds what pg_dump would not have written.
    :raises InputError: its format version is unknown, or the disk has no room for it.
    """
    saved, enough = 0, _FIRST_TRY_BYTES
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            saved += len(chunk)
            if saved > _LIMIT_BYTES:
                raise IntegrityError(f"has a table of contents of more than {_LIMIT_BYTES} bytes")
            require_free_space(path.parent, len(chunk), what="its table of contents")
            file.write(chunk)
            if saved >= enough:
                try:
                    return read_toc(path)
                except TocCutShort:
                    enough = saved * _NEXT_TRY
    return read_toc(path)


def summarize(archive: Path, toc: Toc, *, tools: ClientTools, options: Sequence[str] = ()) -> ArchiveSummary:
    """Summarize a table of contents: the entries to restore, and what it records of the source.

    :param archive: the archive, or its beginning as `read_beginning` writes it.
    :param options: pg_restore's options; they may leave entries out.
    :raises ClientProgramError: pg_restore cannot read the archive.
    :raises IntegrityError: the table of contents is not as pg_dump writes it, although pg_restore may read it.
    """
    version = _VERSION.match(toc.server_version)
    if version is None:
        raise IntegrityError("is damaged: its table of contents does not say what was dumped")
    server = _server(version.group(), toc)
    return ArchiveSummary(
        entries=[toc.by_id[number] for number in listed_ids(archive, tools=tools, arguments=options)],
        version=version.group(),
        server=server if server.collate else None,
    )


def _server(version: str, toc: Toc) -> Server:
    """Return the server, with encoding and locale from the CREATE DATABASE command."""
    command = next((entry.definition for entry in toc.entries if entry.kind == "DATABASE"), b"")
    created = _CREATE.match(command)
    text = command[created.end() :].decode(toc.codec, errors="surrogateescape") if created else ""
    options: dict[str, str] = {}
    while match := _OPTION.match(text):
        options[match["key"]] = match["word"] or match["text"].replace("''", "'")
        text = text[match.end() :]
    locale = options.get("LOCALE", "")
    major, _, minor = version.partition(".")
    return Server(
        version=version,
        version_num=int(major) * 10000 + int(minor or 0),
        system_identifier=None,
        host="",
        encoding=options.get("ENCODING", toc.encoding),
        collate=options.get("LC_COLLATE", locale),
        ctype=options.get("LC_CTYPE", locale),
        locale_provider=options.get("LOCALE_PROVIDER", "libc"),
        locale=options.get("BUILTIN_LOCALE") or options.get("ICU_LOCALE"),
        icu_rules=options.get("ICU_RULES"),
        extensions=[],
    )
