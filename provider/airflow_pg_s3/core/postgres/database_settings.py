"""Settings of a database, and of roles in it, as commands that copy them to another database.

Stored settings are untrusted: anybody who can log in can store almost any text for their own role, as ``ALTER ROLE
… SET … FROM CURRENT`` does not check it. So every part of a setting is quoted.
"""

from __future__ import annotations

import re

from psycopg import sql

# Settings whose values are lists of quoted elements: variable_is_guc_list_quote in PostgreSQL's dumputils.c.
# Elements of the first two are folded to lower case unless quoted (SplitIdentifierString in its varlena.c).
_LISTS_OF_NAMES = ("search_path", "temp_tablespaces")
_LISTS_OF_FILES = (
    "local_preload_libraries", "session_preload_libraries", "shared_preload_libraries", "unix_socket_directories",
)  # fmt: skip
_SPACE = " \t\n\r\f\v"
_ELEMENT = re.compile(
    rf'[{_SPACE}]*(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<bare>[^",{_SPACE}][^,{_SPACE}]*))[{_SPACE}]*(?P<end>,|\Z)'
)
_UPPER = re.compile("[A-Z]+")


def set_command(database: sql.Identifier, role: str | None, setting: str) -> sql.Composed | None:
    """Return the command that sets a database's setting, or a role's in it; None if no command can express it.

    :param role: None for all roles.
    :param setting: ``name=value``, as in ``pg_db_role_setting``.
    """
    name, _, value = setting.partition("=")
    values = [value]
    if name.lower() in (*_LISTS_OF_NAMES, *_LISTS_OF_FILES):
        elements = split_list(value, fold=name.lower() in _LISTS_OF_NAMES)
        # An empty list of names is the same as one empty name; but a library with an empty name fails each login.
        values = elements or [""] if name.lower() in _LISTS_OF_NAMES else elements or []
        if elements is None or not values:
            return None
    who = sql.SQL("alter database {}").format(database)
    if role is not None:
        who = sql.SQL("alter role {} in database {}").format(sql.Identifier(role), database)
    return sql.SQL("{} set {} to {}").format(
        who,
        sql.SQL(".").join(sql.Identifier(part) for part in name.split(".")),
        sql.SQL(", ").join(map(sql.Literal, values)),
    )


def split_list(value: str, *, fold: bool) -> list[str] | None:
    """Split a stored list, as SplitGUCList in PostgreSQL's dumputils.c does; None if it is malformed.

    :param fold: whether unquoted elements are folded to lower case.
    """
    elements: list[str] = []
    position = 0
    if not value.strip(_SPACE):
        return elements
    while match := _ELEMENT.match(value, position):
        if match["quoted"] is not None:
            elements.append(match["quoted"].replace('""', '"'))
        else:
            bare = match["bare"]
            # Only ASCII letters are folded, as the server does in UTF-8.
            elements.append(_UPPER.sub(lambda letters: letters[0].lower(), bare) if fold else bare)
        if not match["end"]:
            return elements
        position = match.end()
    return None
