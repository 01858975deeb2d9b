"""The check of the options that a user passes to `pg_dump` and `pg_restore`.

A program's options, and whether they take a value, are read from its ``--help``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.client_versions import ClientTools

_CONNECTION = {"dbname", "host", "port", "username", "password", "no-password"}
_INFORMATION = {"help", "version"}
_OURS = "is set by airflow-provider-pg-s3; remove it"
_INSERTS = "writes INSERT commands, whose rows can neither be counted nor compared with COPY; remove it"
_ONE_OBJECT = "restores that object alone; tables=[…] restores a table with all that is attached to it"
_ANY_PART = "selects what is restored: give tables=, schemas= or exclude_tables= instead"
# Every option of every major version is in one of these lists, by its long name. An option that is in none is
# refused, as nobody has examined what it does to a backup.
PG_DUMP_REFUSED = {
    **dict.fromkeys(_CONNECTION | _INFORMATION, _OURS),
    **dict.fromkeys(("file", "format", "jobs", "compress", "no-sync", "sync-method", "encoding"), _OURS),
    **dict.fromkeys(("inserts", "column-inserts", "rows-per-insert", "on-conflict-do-nothing"), _INSERTS),
    "binary-upgrade": "makes what only pg_upgrade can restore; remove it",
    "extra-float-digits": "may round numbers; remove it",
    "enable-row-security": "leaves out the rows that the user may not see, and does not say which; remove it",
    "no-synchronized-snapshots": "lets each job see the database at another moment; remove it",
    "restrict-key": "is for plain dumps; remove it",
}
PG_DUMP_LEAVING_OUT = {
    "schema-only", "data-only", "no-data", "no-schema", "statistics-only", "section", "filter",
    "table", "table-and-children", "exclude-table", "exclude-table-and-children",
    "exclude-table-data", "exclude-table-data-and-children", "no-unlogged-table-data",
    "schema", "exclude-schema", "extension", "exclude-extension", "no-large-objects",
    # Without policies, rows that row security protects would be readable.
    "no-policies",
}  # fmt: skip
"""Options that leave rows or objects out of a dump."""

PG_DUMP_HOLLOW = {
    "schema-only", "no-data", "section", "filter", "no-policies",
    "exclude-table-data", "exclude-table-data-and-children", "no-unlogged-table-data",
}  # fmt: skip
"""Those of `PG_DUMP_LEAVING_OUT` that leave out the rows of tables in the dump, or the policies on them."""

PG_DUMP_ALLOWED = {
    # These add to the dump.
    "large-objects", "include-foreign-data", "sequence-data", "statistics",
    # These have no effect on an archive.
    "clean", "create", "if-exists", "no-owner", "superuser", "use-set-session-authorization",
    "disable-triggers",
    # These change how the dump is made.
    "verbose", "disable-dollar-quoting", "lock-wait-timeout", "load-via-partition-root", "quote-all-identifiers",
    "role", "serializable-deferrable", "snapshot", "strict-names",
    # These leave out privileges, the physical storage of data, and what concerns other servers and programs.
    "no-privileges", "no-comments", "no-publications", "no-subscriptions", "no-security-labels", "no-statistics",
    "no-table-access-method", "no-tablespaces", "no-toast-compression",
}  # fmt: skip
PG_RESTORE_REFUSED = {
    **dict.fromkeys(_CONNECTION | _INFORMATION, _OURS),
    **dict.fromkeys(("file", "format", "jobs", "list", "clean", "if-exists", "create", "exit-on-error"), _OURS),
    **dict.fromkeys(("single-transaction", "no-data-for-failed-tables"), _OURS),
    **dict.fromkeys(("schema-only", "no-data"), "leaves all rows out: give schema_only=True instead"),
    **dict.fromkeys(("data-only", "no-schema"), "leaves all definitions out: give data_only=True instead"),
    "section": "restores a part: give schema_only=True or data_only=True instead",
    "statistics-only": "leaves all rows and definitions out; remove it",
    "table": "selects what is restored: give tables=[…] instead",
    "schema": "selects what is restored: give schemas=[…] instead",
    "exclude-schema": "leaves objects out: give exclude_tables=['<schema>.*'] instead",
    **dict.fromkeys(("filter", "use-list"), _ANY_PART),
    **dict.fromkeys(("index", "function", "trigger"), _ONE_OBJECT),
    "no-policies": "opens the rows that row security guards: drop policies in post_restore_sql instead",
    # --transaction-size implies --exit-on-error, and would commit a restore with if_exists="clean" half-way.
    "transaction-size": "ends transactions half-way; remove it",
    "restrict-key": "is for scripts; remove it",
}
PG_RESTORE_ALLOWED = {
    # These change how the restore is made.
    "verbose", "role", "superuser", "disable-triggers", "enable-row-security", "strict-names",
    "use-set-session-authorization",
    # Owners and privileges; the operator's no_owner and no_privileges do the same.
    "no-owner", "no-privileges",
    # The physical storage of data, and statistics, which the server can compute.
    "no-tablespaces", "no-table-access-method", "statistics", "no-statistics",
    # What concerns other servers and programs. Security labels cannot be restored unless their provider, an
    # extension, is loaded.
    "no-comments", "no-publications", "no-subscriptions", "no-security-labels",
}  # fmt: skip
_REFUSED = {"pg_dump": PG_DUMP_REFUSED, "pg_restore": PG_RESTORE_REFUSED}
_ACCEPTED = {"pg_dump": PG_DUMP_ALLOWED | PG_DUMP_LEAVING_OUT, "pg_restore": PG_RESTORE_ALLOWED}
_RENAMED = {"blobs": "large-objects", "no-blobs": "no-large-objects"}
Given = tuple[str, str | None]
"""An option and its value. The option is its long name without dashes, the newest one if it was renamed."""


@dataclass(frozen=True)
class _Known:
    takes_value: dict[str, bool]
    long_of_short: dict[str, str]


def check(options: Sequence[str], *, tools: ClientTools, program: str) -> list[Given]:
    """Refuse options that users may not set, unknown options, and stray words; return the parsed options.

    :param options: a list with one option or value per item, never a shell string.
    :param program: ``pg_dump`` or ``pg_restore``.
    :returns: the options in their order; ``--role=x``, ``--role x`` and ``--ro x`` give the same.
    :raises InputError: an option is refused; the message names it.
    """
    parameter = f"{program}_options"
    if isinstance(options, str):
        raise InputError(f"{parameter} must be a list such as ['--no-owner'], not the string {options!r}")
    for word in options:
        if not isinstance(word, str) or "\0" in word:
            raise InputError(f"{parameter}: {word!r} is not an option of {program}")
    known = _known_options(tools, program)
    given: list[Given] = []
    words = iter(options)
    for word in words:
        for name, attached in _parse(word, known, parameter, program, tools):
            now = newest(name)
            if now in _REFUSED[program]:
                raise InputError(f"{parameter}: {word!r} {_REFUSED[program][now]}")
            if now not in _ACCEPTED[program]:
                raise InputError(
                    f"{parameter}: this version of airflow-provider-pg-s3 does not know what {word!r} of "
                    f"{program} {tools.version} does: upgrade it, or remove the option"
                )
            value = next(words, None) if known.takes_value[name] and attached is None else attached
            if known.takes_value[name] and value is None:
                raise InputError(f"{parameter}: {word!r} needs a value")
            given.append((now, value))
    return given


def without(options: Sequence[str], name: str, *, tools: ClientTools, program: str) -> list[str]:
    """Return options without one that takes no value and has no short name.

    :param options: options that `check` has accepted.
    :param name: the option's long name without dashes.
    """
    known = _known_options(tools, program)
    kept = []
    words = iter(options)
    for word in words:
        *_, (last, attached) = _parse(word, known, f"{program}_options", program, tools)
        if last == name:
            continue
        kept.append(word)
        if known.takes_value[last] and attached is None:
            kept.append(next(words))
    return kept


def newest(name: str) -> str:
    """Return an option's long name in the newest major version."""
    return _RENAMED.get(name, name)


def left_out_by(given: Sequence[Given]) -> list[str]:
    """Return those of pg_dump's options that left something out, such as ``--exclude-table-data``."""
    return sorted({f"--{name}" for name, _ in given if name in PG_DUMP_LEAVING_OUT})


def _parse(word: str, known: _Known, parameter: str, program: str, tools: ClientTools) -> Iterator[Given]:
    """Yield the options in a word, each with the value attached to it."""
    unknown = InputError(f"{parameter}: {program} {tools.version} has no option {word!r}")
    if word.startswith("--") and len(word) > 2:
        given, equals, value = word[2:].partition("=")
        # getopt_long also accepts an unambiguous abbreviation.
        names = [given] if given in known.takes_value else [n for n in known.takes_value if n.startswith(given)]
        if len(names) != 1:
            raise unknown
        if equals and not known.takes_value[names[0]]:
            raise InputError(f"{parameter}: --{names[0]} takes no value, unlike in {word!r}")
        yield names[0], value if equals else None
    elif word.startswith("-") and len(word) > 1 and word != "--":
        for position, letter in enumerate(word[1:], start=2):
            if letter not in known.long_of_short:
                raise unknown
            name = known.long_of_short[letter]
            if known.takes_value[name]:
                yield name, word[position:] or None
                return
            yield name, None
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
