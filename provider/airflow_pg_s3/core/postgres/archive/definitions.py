"""The commands that pg_restore would run, grouped by the archive's entries."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airflow_pg_s3.core.postgres.archive.toc import HOLDING_DATA, Entry
from airflow_pg_s3.core.postgres.archive.use_list import use_list
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.sql_text import Token, redacted_sql, split, tokenize

_HEADER = re.compile(
    r"^-- TOC entry (\d+) \(class \d+ OID \d+\)\n(?:-- Dependencies: .*\n)?"
    r"-- Name: (.*); Type: (.*); Schema: (.*); Owner: .*$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Statement:
    """One command.

    :param said: its tokens.
    """

    text: str
    said: Sequence[Token]

    def begins(self, *keywords: str) -> bool:
        """True if the command begins with these keywords and has more tokens."""
        pairs = zip(self.said, keywords, strict=False)
        return len(self.said) > len(keywords) and all(word.is_bare(keyword) for word, keyword in pairs)

    def encoded(self, codec: str) -> bytes:
        """Return the command as it is in the archive.
        :param codec: Python codec of the archive's encoding.
        """
        return self.text.encode(codec, errors="surrogateescape")

    @property
    def on_one_line(self) -> str:
        """The command on one line, for people, without strings."""
        return redacted_sql(self.text, self.said)

    @property
    def new_owner(self) -> str | None:
        """The role that the command makes an owner; None if it does something else."""
        ends_so = len(self.said) > 3 and self.said[-3].is_bare("OWNER") and self.said[-2].is_bare("TO")
        return self.said[-1].text if ends_so and self.said[0].is_bare("ALTER") else None

    @property
    def is_setting(self) -> bool:
        """True if the command is a setting for all later commands."""
        if self.begins("SELECT", "PG_CATALOG"):
            return self.said[3].is_bare("SET_CONFIG")
        return self.begins("SET") and not self.begins("SET", "SESSION")


@dataclass(frozen=True)
class Definition:
    """One entry's commands, and those that pg_restore writes between it and the next entry.

    :param dump_id: the entry's; 0 for the commands before the first entry, settings and the drops of ``--clean``.
    :param label: the entry's kind and name, for people.
    """

    dump_id: int
    label: str
    statements: list[Statement] = field(default_factory=list)


def definitions_of(
    archive: Path, entries: Iterable[Entry], *, tools: ClientTools, codec: str, options: Sequence[str]
) -> list[Definition]:
    """Return the commands that pg_restore runs for entries, except those that hold data.

    :param archive: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param codec: Python codec of the archive's encoding.
    :param options: pg_restore's options.
    :raises ClientProgramError: pg_restore cannot read the archive.
    """
    numbers = [entry.dump_id for entry in entries if entry.kind not in HOLDING_DATA]
    chosen = use_list(archive.parent / "definitions.list", numbers)
    script = tools.ask_pg_restore(*options, "--verbose", chosen, "--file=-", str(archive))
    return list(parse(script.decode(codec, errors="surrogateescape")))


def parse(script: str) -> Iterator[Definition]:
    """Split a script of ``pg_restore --verbose`` into definitions."""
    # The body of a function can look like a header. So each header is first replaced by a statement. If it is then
    # found as a statement of its own, it was a header; if it is found within quotes, it is put back.
    token = f"header_{secrets.token_hex(16)}"
    headers = list(_HEADER.finditer(script))
    numbers = iter(range(len(headers)))
    marked = _HEADER.sub(lambda _: f"{token} {next(numbers)};", script)
    # If standard_conforming_strings is off in a database, it is off in its archive.
    backslashes = "\nSET standard_conforming_strings = off;\n" in script
    definition = Definition(0, "the settings")
    for text in split(marked, backslashes=backslashes):
        if re.fullmatch(rf"{token} \d+", text):
            yield definition
            number, name, kind, schema = headers[int(text.split()[1])].groups()
            definition = Definition(int(number), _label(kind, schema, name))
            continue
        text = re.sub(rf"{token} (\d+);", lambda match: headers[int(match.group(1))].group(), text)
        definition.statements.append(Statement(text, tokenize(text, backslashes=backslashes)))
    yield definition


def _label(kind: str, schema: str, name: str) -> str:
    if kind in ("ACL", "COMMENT", "DEFAULT ACL", "SECURITY LABEL"):
        label = f"{kind} on {name}" + ("" if schema == "-" else f" in {schema}")
    else:
        label = f"{kind} {name}" if schema == "-" else f"{kind} {schema}.{name}"
    return " ".join(label.split())
