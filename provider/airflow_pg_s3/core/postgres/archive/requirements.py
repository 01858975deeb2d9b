"""What an archive needs in the server and database that it is restored into.

The needs are read from the commands that pg_restore would run. The table of contents has the definitions, but
pg_restore adds commands for owners, tablespaces and roles, which depend on its options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airflow_pg_s3.core.postgres.archive.toc import HOLDING_DATA, Entry, Toc
from airflow_pg_s3.core.postgres.archive.use_list import use_list
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.sql_text import Token, split, starts_with, tokenize

OWNER = "owners"
GRANTEE = "privileges"
NAMED = "policies or user mappings"
# Entries of data would need their files; statistics, which are many, refer to nothing but tables.
_WITHOUT_NEEDS = (*HOLDING_DATA, "STATISTICS DATA")
# Keywords that can stand in place of a role.
_NOBODY = ("PUBLIC", "CURRENT_USER", "CURRENT_ROLE", "SESSION_USER", "DEFAULT", "NONE")
# Most of an archive's tens of thousands of statements match the first pattern or do not match the second; these
# are not tokenized, to save time.
_PLAIN_CHANGE_OF_OWNER = re.compile(r"ALTER (?:TABLE|SEQUENCE|LARGE OBJECT) [\w.]+ OWNER TO (\w+)")
_MAY_NEED = re.compile(
    "OWNER|GRANT|REVOKE|PRIVILEGES|POLICY|MAPPING|AUTHORIZATION|ROLE|TABLESPACE|EXTENSION|COLLAT", re.IGNORECASE
)


@dataclass
class Requirements:
    """What must exist before pg_restore begins.

    :param roles: names of roles, with the purposes that each is needed for: `OWNER`, `GRANTEE`, `NAMED`.
    :param roles_to_become: roles that the restoring role must be able to become, unless it is a superuser.
    :param extensions: names of extensions that are created.
    :param schema_of: the schema that each extension is created in, in the order of creation.
    :param tables_of_extensions: schema and name of extensions' tables whose rows are restored.
    :param schemas: names of schemas that are created.
    :param tablespaces: names of tablespaces that are used.
    :param collations: names of collations in the schema ``pg_catalog`` that are used.
    :param new_collations: names of collations that are created, with their options in parentheses.
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
    """Return what a restore needs.

    :param archive: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param toc: its table of contents.
    :param entries: the entries to restore.
    :param options: pg_restore's options; they may leave out owners and privileges.
    :raises ClientProgramError: pg_restore cannot read the archive.
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
    """Return what a script of pg_restore needs."""
    needs = Requirements()
    # If standard_conforming_strings is off in a database, it is off in its archive.
    backslashes = "\nSET standard_conforming_strings = off;\n" in script
    for statement in split(script, backslashes=backslashes):
        if match := _PLAIN_CHANGE_OF_OWNER.fullmatch(statement):
            needs.roles.setdefault(match.group(1), set()).add(OWNER)
            needs.roles_to_become.add(match.group(1))
            continue
        if not _MAY_NEED.search(statement):
            continue
        tokens = tokenize(statement, backslashes=backslashes)
        for role, purpose in _roles(tokens):
            needs.roles.setdefault(role, set()).add(purpose)
        needs.roles_to_become.update(_roles_to_become(tokens))
        head = [word.text.upper() for word in tokens[:3] if not word.quote]
        if head[:2] == ["SET", "DEFAULT_TABLESPACE"] and tokens[-1].text:
            needs.tablespaces.add(tokens[-1].text)
        elif head[:2] == ["CREATE", "EXTENSION"]:
            name = _name_after(tokens, 2)
            needs.extensions.add(name)
            needs.schema_of[name] = tokens[-1].text  # WITH SCHEMA
        elif head[:2] == ["CREATE", "COLLATION"]:
            options = next(index for index, word in enumerate(tokens) if word.is_bare("("))
            name = ".".join(word.text for word in tokens[2:options] if not word.is_bare("."))
            needs.new_collations[name] = " ".join(word.sql for word in tokens[options:])
        needs.collations.update(_system_collations(tokens))
    return needs


def _roles(tokens: Sequence[Token]) -> Iterator[tuple[str, str]]:
    """Yield the roles that a statement names, with their purpose."""
    if _is_change_of_owner(tokens):
        yield tokens[-1].text, OWNER
    elif tokens[0].is_bare("GRANT", "REVOKE"):
        yield from ((name, GRANTEE) for name in _grantees(tokens))
    elif starts_with(tokens, "ALTER", "DEFAULT", "PRIVILEGES"):
        yield tokens[5].text, GRANTEE  # FOR ROLE name
        yield from ((name, GRANTEE) for name in _grantees(tokens))
    elif starts_with(tokens, "CREATE", "POLICY"):
        yield from ((name, NAMED) for name in _names_after(tokens, "TO"))
    elif starts_with(tokens, "CREATE", "USER", "MAPPING"):
        yield from ((name, NAMED) for name in _names_after(tokens, "FOR"))
    elif starts_with(tokens, "SET", "SESSION", "AUTHORIZATION") and not _is_nobody(tokens[3]):
        yield tokens[3].text, GRANTEE
    elif starts_with(tokens, "SET", "ROLE") and not _is_nobody(tokens[2]):  # the option --role
        yield tokens[2].text, OWNER


def _roles_to_become(tokens: Sequence[Token]) -> Iterator[str]:
    if _is_change_of_owner(tokens):
        # Every new database has the schema public, which may belong to the right role already.
        if not (starts_with(tokens, "ALTER", "SCHEMA") and tokens[2].text == "public"):
            yield tokens[-1].text
    elif starts_with(tokens, "ALTER", "DEFAULT", "PRIVILEGES"):
        yield tokens[5].text
    elif starts_with(tokens, "SET", "ROLE") and not _is_nobody(tokens[2]):
        yield tokens[2].text


def _is_change_of_owner(tokens: Sequence[Token]) -> bool:
    return (
        tokens[0].is_bare("ALTER") and len(tokens) > 3 and tokens[-3].is_bare("OWNER") and tokens[-2].is_bare("TO")
    )


def _grantees(tokens: Sequence[Token]) -> Iterator[str]:
    # TO and FROM are reserved, so that a name like this is quoted.
    return _names_after(tokens, "TO", "FROM")


def _names_after(tokens: Sequence[Token], *keywords: str) -> Iterator[str]:
    """Yield the names in the list after the first of these keywords that is not in parentheses."""
    at = next((i for i, word in enumerate(tokens) if word.depth == 0 and word.is_bare(*keywords)), len(tokens))
    for name, follower in zip(tokens[at + 1 :: 2], [*tokens[at + 2 :: 2], None], strict=False):
        if not _is_nobody(name):
            yield name.text
        if follower is None or not follower.is_bare(","):
            return


def _name_after(tokens: Sequence[Token], at: int) -> str:
    if [word.text.upper() for word in tokens[at : at + 3]] == ["IF", "NOT", "EXISTS"]:
        at += 3
    return tokens[at].text


def _system_collations(tokens: Sequence[Token]) -> Iterator[str]:
    for index, word in enumerate(tokens[:-1]):
        if word.is_bare("COLLATE"):
            name = [follower.text for follower in tokens[index + 1 : index + 4]]
            if name[:2] == ["pg_catalog", "."]:
                yield name[2]
            elif name[1:2] != ["."]:
                yield name[0]  # without a schema, it is one of pg_catalog


def _is_nobody(word: Token) -> bool:
    return word.is_bare(*_NOBODY)
