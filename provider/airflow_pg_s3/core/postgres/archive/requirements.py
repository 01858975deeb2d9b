"""What an archive needs of the server and database that it is restored into.

It is read out of the commands that pg_restore would run: the table of contents has the definitions, but pg_restore
puts owners, tablespaces and roles around them in its own words, which its options change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airflow_pg_s3.core.postgres.archive.toc import HOLDING_DATA, Entry, Toc
from airflow_pg_s3.core.postgres.archive.use_list import use_list
from airflow_pg_s3.core.postgres.client_tools import ClientTools
from airflow_pg_s3.core.postgres.sql_text import Token, split, starts_with, tokenize

OWNER = "owners"
GRANTEE = "privileges"
NAMED = "policies or user mappings"
# The members of data would have to be there, and statistics, which are many, name nothing but tables.
_WITHOUT_NEEDS = (*HOLDING_DATA, "STATISTICS DATA")
# In place of a role.
_NOBODY = ("PUBLIC", "CURRENT_USER", "CURRENT_ROLE", "SESSION_USER", "DEFAULT", "NONE")
# An archive holds tens of thousands of statements, and most are of these two sorts: they are not cut into words.
_PLAIN_CHANGE_OF_OWNER = re.compile(r"ALTER (?:TABLE|SEQUENCE|LARGE OBJECT) [\w.]+ OWNER TO (\w+)")
_MAY_NEED = re.compile(
    "OWNER|GRANT|REVOKE|PRIVILEGES|POLICY|MAPPING|AUTHORIZATION|ROLE|TABLESPACE|EXTENSION|COLLAT", re.IGNORECASE
)


@dataclass
class Requirements:
    """What must be there before pg_restore begins.

    :param roles: names, with what each is needed for: `OWNER`, `GRANTEE`, `NAMED`.
    :param acted_as: those that the restoring role must be able to become, if it is no superuser.
    :param schema_of: the schema that each extension is created in, in the order in which they are.
    :param tables_of_extensions: schema and name of those whose rows are restored.
    :param schemas: those that are created.
    :param collations: names of collations of the schema ``pg_catalog`` that something uses.
    :param new_collations: the options of collations that are created, in parentheses, by name.
    """

    roles: dict[str, set[str]] = field(default_factory=dict)
    roles_to_become: set[str] = field(default_factory=set)
    extensions: set[str] = field(default_factory=set)
    schema_of: dict[str, str] = field(default_factory=dict)
    tables_of_extensions: list[tuple[str, str]] = field(default_factory=list)
    schemas: list[str] = field(default_factory=list)
    tablespaces: set[str] = field(default_factory=set)
    collations: set[str] = field(default_factory=set)
    new_collations: dict[str, str] = field(default_factory=dict)


def requirements_of(
    archive: Path, toc: Toc, entries: Sequence[Entry], *, tools: ClientTools, options: Sequence[str] = ()
) -> Requirements:
    """Find out what a restore needs.

    :param archive: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param toc: its table of contents.
    :param entries: what is restored.
    :param options: of pg_restore; they may leave out owners and privileges.
    :raises ClientProgramError: pg_restore cannot read it.
    """
    numbers = [entry.dump_id for entry in entries if entry.kind not in _WITHOUT_NEEDS]
    chosen = use_list(archive.parent / "needs.list", numbers)
    script = tools.ask_pg_restore(*options, chosen, "--file=-", str(archive))
    needs = parse(script.decode(toc.codec, errors="surrogateescape"))
    needs.schemas = [entry.name for entry in entries if entry.kind == "SCHEMA"]
    needs.tables_of_extensions = [
        (entry.schema, entry.name)
        for entry in entries
        if entry.kind == "TABLE DATA" and toc.is_of_extension(entry)
    ]
    return needs


def parse(script: str) -> Requirements:
    """Read what a script of pg_restore needs."""
    needs = Requirements()
    # A database can have it off, and then its archive has.
    backslashes = "\nSET standard_conforming_strings = off;\n" in script
    for statement in split(script, backslashes=backslashes):
        if match := _PLAIN_CHANGE_OF_OWNER.fullmatch(statement):
            needs.roles.setdefault(match.group(1), set()).add(OWNER)
            needs.roles_to_become.add(match.group(1))
            continue
        if not _MAY_NEED.search(statement):
            continue
        said = tokenize(statement, backslashes=backslashes)
        for role, purpose in _roles(said):
            needs.roles.setdefault(role, set()).add(purpose)
        needs.roles_to_become.update(_acted_as(said))
        head = [word.text.upper() for word in said[:3] if not word.quote]
        if head[:2] == ["SET", "DEFAULT_TABLESPACE"] and said[-1].text:
            needs.tablespaces.add(said[-1].text)
        elif head[:2] == ["CREATE", "EXTENSION"]:
            name = _name_behind(said, 2)
            needs.extensions.add(name)
            needs.schema_of[name] = said[-1].text  # WITH SCHEMA
        elif head[:2] == ["CREATE", "COLLATION"]:
            options = next(index for index, word in enumerate(said) if word.is_bare("("))
            name = ".".join(word.text for word in said[2:options] if not word.is_bare("."))
            needs.new_collations[name] = " ".join(word.sql for word in said[options:])
        needs.collations.update(_system_collations(said))
    return needs


def _roles(said: Sequence[Token]) -> Iterator[tuple[str, str]]:
    """Yield the roles that a statement names, and what for."""
    if _is_change_of_owner(said):
        yield said[-1].text, OWNER
    elif said[0].is_bare("GRANT", "REVOKE"):
        yield from ((name, GRANTEE) for name in _grantees(said))
    elif starts_with(said, "ALTER", "DEFAULT", "PRIVILEGES"):
        yield said[5].text, GRANTEE  # FOR ROLE name
        yield from ((name, GRANTEE) for name in _grantees(said))
    elif starts_with(said, "CREATE", "POLICY"):
        yield from ((name, NAMED) for name in _names_behind(said, "TO"))
    elif starts_with(said, "CREATE", "USER", "MAPPING"):
        yield from ((name, NAMED) for name in _names_behind(said, "FOR"))
    elif starts_with(said, "SET", "SESSION", "AUTHORIZATION") and not _is_nobody(said[3]):
        yield said[3].text, GRANTEE
    elif starts_with(said, "SET", "ROLE") and not _is_nobody(said[2]):  # the option --role
        yield said[2].text, OWNER


def _acted_as(said: Sequence[Token]) -> Iterator[str]:
    if _is_change_of_owner(said):
        # It is in each new database, and may be the right one's already.
        if not (starts_with(said, "ALTER", "SCHEMA") and said[2].text == "public"):
            yield said[-1].text
    elif starts_with(said, "ALTER", "DEFAULT", "PRIVILEGES"):
        yield said[5].text
    elif starts_with(said, "SET", "ROLE") and not _is_nobody(said[2]):
        yield said[2].text


def _is_change_of_owner(said: Sequence[Token]) -> bool:
    return said[0].is_bare("ALTER") and len(said) > 3 and said[-3].is_bare("OWNER") and said[-2].is_bare("TO")


def _grantees(said: Sequence[Token]) -> Iterator[str]:
    # TO and FROM are reserved: they are in quotes where they are names.
    return _names_behind(said, "TO", "FROM")


def _names_behind(said: Sequence[Token], *keywords: str) -> Iterator[str]:
    """Yield the names in the list behind the first of these key words that is in no parentheses."""
    at = next((i for i, word in enumerate(said) if word.depth == 0 and word.is_bare(*keywords)), len(said))
    for name, behind in zip(said[at + 1 :: 2], [*said[at + 2 :: 2], None], strict=False):
        if not _is_nobody(name):
            yield name.text
        if behind is None or not behind.is_bare(","):
            return


def _name_behind(said: Sequence[Token], at: int) -> str:
    if [word.text.upper() for word in said[at : at + 3]] == ["IF", "NOT", "EXISTS"]:
        at += 3
    return said[at].text


def _system_collations(said: Sequence[Token]) -> Iterator[str]:
    for index, word in enumerate(said[:-1]):
        if word.is_bare("COLLATE"):
            name = [follower.text for follower in said[index + 1 : index + 4]]
            if name[:2] == ["pg_catalog", "."]:
                yield name[2]
            elif name[1:2] != ["."]:
                yield name[0]  # without its schema, it is the system's


def _is_nobody(word: Token) -> bool:
    return word.is_bare(*_NOBODY)
