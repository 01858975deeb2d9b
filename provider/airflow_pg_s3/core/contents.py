"""What an archive holds and where it comes from, as pg_restore reads it out of the table of contents."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_pg_s3.core.clients import ClientTools, environment, failure
from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.manifest import Server
from airflow_pg_s3.core.room import make_sure_of_room
from airflow_pg_s3.core.selection import TocEntry, list_entries

_PIECE_BYTES = 1 << 16
_LIMIT_BYTES = 1 << 30
_VERSION = re.compile(rb"^; +Dumped from database version: (\d+(?:\.\d+)?)", re.MULTILINE)
_CLIENT_ENCODING = re.compile(rb"^SET client_encoding = '([\w-]+)';$", re.MULTILINE)
_CREATE = re.compile(rb"^CREATE DATABASE (?s:.)*? WITH TEMPLATE = template0", re.MULTILINE)
_OPTION = re.compile(r" (?P<key>[A-Z_]+) = (?:(?P<word>\w+)|'(?P<text>(?:[^']|'')*)')")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """An archive's table of contents.

    :param version: of the server that was dumped, such as ``16.14``.
    :param codec: Python codec of the archive's encoding, which names are in.
    :param server: it with its encoding and locale; None if the archive does not hold those of the database (a dump
        of some tables).
    """

    entries: list[TocEntry]
    version: str
    codec: str
    server: Server | None

    @property
    def tables(self) -> int:
        """Number of tables whose data it holds."""
        return sum(entry.kind == "TABLE DATA" for entry in self.entries)

    @property
    def has_statistics(self) -> bool:
        """Whether it holds the planner's statistics."""
        return any(entry.kind == "STATISTICS DATA" for entry in self.entries)

    @property
    def has_partition_keys(self) -> bool:
        """Whether partitions in it have keys that belong to those of their tables."""
        return any(entry.kind == "INDEX ATTACH" for entry in self.entries)


def save_beginning(chunks: Iterator[bytes], path: Path, *, tools: ClientTools, form: str) -> None:
    """Take from a stream what holds the table of contents, and write it to a file.

    How long it is, only pg_restore knows: it reads no further when it has listed it.

    :param chunks: an archive.
    :param form: its format, ``custom`` or ``tar``.
    :raises ClientProgramError: pg_restore cannot read the archive.
    :raises IntegrityError: the table of contents has no end.
    """
    saved = 0
    with (
        path.open("wb") as file,
        subprocess.Popen(
            [tools.path("pg_restore"), "--list", f"--format={form}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as program,
    ):
        assert program.stdin is not None
        assert program.stderr is not None
        try:
            for chunk in chunks:
                saved += len(chunk)
                if saved > _LIMIT_BYTES:
                    raise IntegrityError(f"has a table of contents of more than {_LIMIT_BYTES} bytes")
                make_sure_of_room(path.parent, len(chunk), what="its table of contents")
                file.write(chunk)
                if not _write(program.stdin.fileno(), chunk):
                    break
            # Nothing is buffered: closing it is no writing.
            program.stdin.close()
            stderr = program.stderr.read()
            if program.wait() != 0:
                raise failure("pg_restore", program.returncode, stderr)
        finally:
            program.kill()


def read_contents(archive: Path, *, tools: ClientTools, arguments: Sequence[str] = ()) -> Contents:
    """Read the table of contents.

    :param archive: the archive, or as much of its beginning as `save_beginning` keeps.
    :param arguments: options of pg_restore that leave entries out.
    :raises ClientProgramError: pg_restore cannot read it.
    :raises IntegrityError: it is not what pg_dump writes, although pg_restore reads it.
    """
    versions = _VERSION.findall(tools.ask_pg_restore("--list", str(archive)))
    # With an empty list of entries, what is left is the database's own command.
    script = tools.ask_pg_restore(
        "--create", "--schema-only", f"--use-list={os.devnull}", "--file=-", str(archive)
    )
    if not versions:
        # As of zeros: an archive of nothing, for pg_restore.
        raise IntegrityError("is damaged: its table of contents does not say what was dumped")
    version = versions[-1].decode()
    found = _CLIENT_ENCODING.search(script)
    server = _server(version, found.group(1).decode() if found else "UTF8", script)
    return Contents(
        entries=list_entries(archive, tools=tools, arguments=arguments, codec=server.codec),
        version=version,
        codec=server.codec,
        server=server if server.collate else None,
    )


def _server(version: str, encoding: str, script: bytes) -> Server:
    """Make what CREATE DATABASE says of encoding and locale into a record of the server."""
    created = _CREATE.search(script)
    text = script[created.end() :].decode("latin-1") if created else ""
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
        encoding=options.get("ENCODING", encoding),
        collate=options.get("LC_COLLATE", locale),
        ctype=options.get("LC_CTYPE", locale),
        locale_provider=options.get("LOCALE_PROVIDER", "libc"),
        locale=options.get("BUILTIN_LOCALE") or options.get("ICU_LOCALE"),
        icu_rules=options.get("ICU_RULES"),
        extensions=[],
    )


def _write(descriptor: int, chunk: bytes) -> bool:
    """Write in small pieces, so that little more is taken than is read; say whether somebody reads."""
    try:
        for start in range(0, len(chunk), _PIECE_BYTES):
            view = memoryview(chunk)[start : start + _PIECE_BYTES]
            while view:
                view = view[os.write(descriptor, view) :]
    except BrokenPipeError:
        return False
    return True
