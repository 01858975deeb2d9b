"""Checks the options that a user passes on to `pg_dump` and `pg_restore`.

Which options a program has, and which of them take a value, is read from its own ``--help``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airflow_pg_s3.core.clients import ClientTools
from airflow_pg_s3.core.errors import InputError

_CONNECTION = {"dbname", "host", "port", "username", "password", "no-password"}
_INFORMATION = {"help", "version"}
PG_DUMP_OWNED = _CONNECTION | _INFORMATION | {
    "file", "format", "jobs", "compress", "no-sync", "sync-method", "encoding",
    # Not to be restored, not to be compared, and not all rows.
    "binary-upgrade", "extra-float-digits", "enable-row-security",
    # These write INSERT commands, whose rows can neither be counted nor compared with COPY.
    "inserts", "column-inserts", "rows-per-insert", "on-conflict-do-nothing",
}  # fmt: skip
PG_RESTORE_OWNED = _CONNECTION | _INFORMATION | {
    "file", "format", "jobs", "list", "use-list", "clean", "if-exists", "create", "exit-on-error",
    "table", "schema",
}  # fmt: skip


@dataclass(frozen=True)
class _Known:
    takes_value: dict[str, bool]
    long_of_short: dict[str, str]


def check(options: Sequence[str], *, tools: ClientTools, program: str, owned: set[str], parameter: str) -> None:
    """Refuse options that the operator sets itself, unknown ones, and stray words.

    :param options: one option or value an item, never a shell string.
    :param owned: long names of the options that are not the user's to set.
    :param parameter: name of the operator's argument, for the message.
    :raises InputError: naming the option.
    """
    if isinstance(options, str):
        raise InputError(f"{parameter} must be a list such as ['--no-owner'], not the string {options!r}")
    for word in options:
        if not isinstance(word, str) or "\0" in word:
            raise InputError(f"{parameter}: {word!r} is not an option of {program}")
    known = _known_options(tools, program)
    words = iter(options)
    for word in words:
        for name, has_value in _parse(word, known, parameter, program, tools):
            if name in owned:
                raise InputError(f"{parameter}: {word!r} is set by the operator; remove it")
            if known.takes_value[name] and not has_value and next(words, None) is None:
                raise InputError(f"{parameter}: {word!r} needs a value")


def _parse(
    word: str, known: _Known, parameter: str, program: str, tools: ClientTools
) -> Iterator[tuple[str, bool]]:
    unknown = InputError(f"{parameter}: {program} {tools.version} has no option {word!r}")
    if word.startswith("--") and len(word) > 2:
        given, equals, _ = word[2:].partition("=")
        # getopt_long also takes the beginning of a name, where it is the beginning of only one.
        names = [given] if given in known.takes_value else [n for n in known.takes_value if n.startswith(given)]
        if len(names) != 1:
            raise unknown
        if equals and not known.takes_value[names[0]]:
            raise InputError(f"{parameter}: --{names[0]} takes no value, unlike in {word!r}")
        yield names[0], bool(equals)
    elif word.startswith("-") and len(word) > 1 and word != "--":
        for position, letter in enumerate(word[1:], start=2):
            if letter not in known.long_of_short:
                raise unknown
            name = known.long_of_short[letter]
            yield name, position < len(word)
            if known.takes_value[name]:
                return
    else:
        raise InputError(f"{parameter}: {word!r} is not an option (an option and its value are separate items)")


def _known_options(tools: ClientTools, program: str) -> _Known:
    text = tools.ask(program, "--help").decode(errors="replace")
    known = _Known(takes_value={}, long_of_short={})
    # Lines such as "  -n, --schema=PATTERN   dump ..." and "  --no-owner   ..."
    for short, name, value in re.findall(r"^ +(?:-(\S), )?--([a-z0-9-]+)(\[?=)?", text, re.MULTILINE):
        known.takes_value[name] = value == "="
        if short:
            known.long_of_short[short] = name
    return known
