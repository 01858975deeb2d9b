"""The differences between the definitions in an archive and those of the database restored from it.

Major versions of PostgreSQL word the same definitions differently. Here is a rule for each known case, so that
nothing has to be left out of the comparison.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Sequence

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.archive.schema_script import TO_BE_FILLED, Entry, SchemaText, printable
from airflow_pg_s3.core.postgres.redaction import HIDDEN, SECRETS, SECRETS_IN_STRINGS, first_match, hidden_from
from airflow_pg_s3.core.postgres.sql_text import without_strings
from airflow_pg_s3.core.repository.verification_record import Difference

_SHOWN_LINES = 12
_SHOWN_CHARACTERS = 300
# pg_dump 15 and before write two spaces.
_DEFAULT_ACL = re.compile(r"^(ALTER DEFAULT PRIVILEGES .*)  (TO|FROM) ")
# pg_dump 17 and later list all privileges by name for a server before 17, which lacks MAINTAIN.
_ALL_BUT_MAINTAIN = re.compile(r"(GRANT|REVOKE) SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON ")
# pg_dump 18 writes ONLY where 17 and before do not; nothing inherits a column's options, so it changes nothing.
_FOREIGN_TABLE = re.compile(r"^ALTER FOREIGN TABLE ONLY ")
# Names that are quoted since 16 or 17, where they became keywords:
# https://www.postgresql.org/docs/17/sql-keywords-appendix.html
_NEW_KEYWORD = re.compile(
    r'"(json|json_array|json_arrayagg|json_exists|json_object|json_objectagg|json_query|json_scalar|json_serialize'
    r'|json_table|json_value|merge_action|system_user)"'
)
_TOKEN = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|[\w$]+|\S')
_QUERIES = ("VIEW", "MATERIALIZED VIEW")
_ABOUT_PUBLIC = (Entry("SCHEMA", "-", "public"), Entry("COMMENT", "-", "SCHEMA public"))
# Kinds whose strings may hold credentials for another server.
_OF_OTHER_SERVERS = ("FOREIGN DATA WRAPPER", "FOREIGN TABLE", "SERVER", "SUBSCRIPTION", "USER MAPPING")


def compare_schemas(
    expected: SchemaText, found: SchemaText, *, same_major: bool, may_lack: Collection[Entry] = ()
) -> Iterator[Difference]:
    """Yield what is missing, what is not in the source, and what differs.

    :param expected: the archive's definitions.
    :param same_major: whether the servers, and the programs that wrote both texts, are of one major version.
    :param may_lack: entries of the archive that the database may lack.
    """
    for entry, texts in expected.entries.items():
        if entry.kind == TO_BE_FILLED or (entry in _ABOUT_PUBLIC and not found.tells_of_public):
            continue
        if entry not in found.entries:
            if entry not in may_lack:
                yield _difference(entry, "is missing")
        elif not _are_equal(entry, texts, found.entries[entry], same_major):
            yield _difference(entry, _diff(_lines(entry, expected), _lines(entry, found)))
    for_extensions = schemas_for_extensions(expected, found)
    for entry in found.entries:
        if entry not in expected.entries and entry not in for_extensions:
            yield _difference(entry, "is not in the source")


def schemas_for_extensions(expected: SchemaText, found: SchemaText) -> list[Entry]:
    """Return schemas that the archive lacks but has an extension in; they had to be created for the restore."""
    schemas = {
        line.rpartition(" WITH SCHEMA ")[2]
        for entry, texts in expected.entries.items()
        if entry.kind == "EXTENSION"
        for line in texts[0]
    }
    return [
        entry
        for entry, texts in found.entries.items()
        if entry.kind == "SCHEMA"
        and entry not in expected.entries
        and texts[0][0].removeprefix("CREATE SCHEMA ") in schemas
    ]


def _difference(entry: Entry, detail: str) -> Difference:
    kind = "extension" if entry.kind == "EXTENSION" else "schema"
    name = entry.name if kind == "extension" else str(entry)
    return Difference(kind=kind, name=printable(name), detail=printable(detail))


def _are_equal(entry: Entry, a: Sequence[list[str]], b: Sequence[list[str]], same_major: bool) -> bool:
    if a == b:
        return True
    if same_major or len(a) != len(b):
        return False
    are_equivalent = _rule(entry)
    return all(
        are_equivalent(_each(_NEW_KEYWORD, r"\1", x), _each(_NEW_KEYWORD, r"\1", y))
        for x, y in zip(a, b, strict=True)
    )


def _rule(entry: Entry) -> Callable[[list[str], list[str]], bool]:
    if entry.kind in _QUERIES or (entry.kind == "RULE" and entry.name.endswith(" _RETURN")):
        return _are_equal_queries
    if entry.kind.endswith("ACL"):
        return lambda a, b: _privileges(a) == _privileges(b)
    if entry.kind == "FOREIGN TABLE":
        change = "ALTER FOREIGN TABLE "
        return lambda a, b: _each(_FOREIGN_TABLE, change, a) == _each(_FOREIGN_TABLE, change, b)
    return lambda a, b: a == b


def _each(pattern: re.Pattern[str], replacement: str, lines: list[str]) -> list[str]:
    return [pattern.sub(replacement, line) for line in lines]


def _privileges(lines: list[str]) -> list[str]:
    # Lines are sorted again, as they were sorted in their original wording.
    return sorted(_each(_ALL_BUT_MAINTAIN, r"\1 ALL ON ", _each(_DEFAULT_ACL, r"\1 \2 ", lines)))


def _are_equal_queries(expected: list[str], found: list[str]) -> bool:
    """True if two views differ in qualifiers only.

    PostgreSQL 16 and later omit qualifiers if a query reads from only one relation. So an omitted qualifier must
    have named a relation that the query reads, and every other token must be the same.
    """
    a, b = (_TOKEN.findall("\n".join(lines)) for lines in (expected, found))
    sources = a[a.index("FROM") :] if "FROM" in a else []
    # Schemas are left out: they are followed by a dot in FROM, too.
    names = {x for x, follower in zip(sources, [*sources[1:], ""], strict=True) if follower != "."}
    i = 0
    for token in b:
        if a[i : i + 1] != [token] and a[i + 1 : i + 3] == [".", token] and a[i] in names:
            i += 2
        if a[i : i + 1] != [token]:
            return False
        i += 1
    return i == len(a)


def _lines(entry: Entry, schema: SchemaText) -> list[tuple[str, str]]:
    """Return an entry's lines, each with the text to show for it."""
    backslashes = not schema.standard_conforming_strings
    return [
        pair
        for text in schema.entries[entry]
        for pair in zip(text, shown_lines(entry.kind, text, backslashes=backslashes), strict=True)
    ]


def _diff(expected: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]]) -> str:
    # The original lines are compared, so that lines that differ only in what is hidden are shown, too.
    a, b = ([line for line, _ in pairs] for pairs in (expected, found))
    lines = []
    for tag, a_start, a_end, b_start, b_end in difflib.SequenceMatcher(None, a, b).get_opcodes():
        if tag != "equal":
            lines += [f"-{shown}"[:_SHOWN_CHARACTERS] for _, shown in expected[a_start:a_end]]
            lines += [f"+{shown}"[:_SHOWN_CHARACTERS] for _, shown in found[b_start:b_end]]
    more = len(lines) - _SHOWN_LINES
    shown = lines[:_SHOWN_LINES] + ([f"and {more} lines more"] if more > 0 else [])
    return "\n".join(["differs (- in the backup, + restored):", *shown])


def shown_lines(kind: str, lines: Sequence[str], *, backslashes: bool) -> list[str]:
    """Return lines with credentials hidden, one for each given line.

    :param kind: kind of the entry.
    :param backslashes: whether backslashes escape in every string (``standard_conforming_strings`` is off).
    """
    if kind in _OF_OTHER_SERVERS:
        try:
            return without_strings("\n".join(lines), backslashes=backslashes).split("\n")
        except IntegrityError:
            return [HIDDEN] * len(lines)
    shown = []
    is_open = begins_next = False
    for line in lines:
        first = first_match((*SECRETS, *SECRETS_IN_STRINGS), line)
        if first is None and not is_open and not begins_next:
            shown.append(line)
            continue
        start = 0 if is_open or begins_next or first is None else first.end(1)
        shown.append(hidden_from(line, start))
        # The secret's string may continue in the next line, or begin there.
        is_within = first is not None and first.re in SECRETS_IN_STRINGS and line.count("'", 0, start) % 2 == 1
        is_open = (is_open or is_within) != (line.count("'", start) % 2 == 1)
        begins_next = not line[start:].strip()
    return shown
