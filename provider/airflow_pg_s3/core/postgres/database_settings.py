"""Settings of a database, and of roles in it, as commands that give them to another one.

What is stored was written by others: whoever may log in can store almost any text for themselves, as ``ALTER ROLE
… SET … FROM CURRENT`` takes it as it is. So nothing of it is ever put into a command but in quotes.
"""

from __future__ import annotations

import re

from psycopg import sql

# Their values are lists, which are stored with quotes of their own: variable_is_guc_list_quote in PostgreSQL's
# dumputils.c. Of the first, names without quotes are in lower case (SplitIdentifierString in its varlena.c).
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
    """Command that gives a setting to a database, or to a role in it; None if no command can say it.

    :param role: None for all roles.
    :param setting: ``name=value``, as ``pg_db_role_setting`` has it.
    """
    name, _, value = setting.partition("=")
    values = [value]
    if name.lower() in (*_LISTS_OF_NAMES, *_LISTS_OF_FILES):
        elements = split_list(value, fold=name.lower() in _LISTS_OF_NAMES)
        # To name nothing is the same as no name at all; a library that has no name is an error at each login.
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
    """Split a list as it is stored, as SplitGUCList in PostgreSQL's dumputils.c does; None if it is none.

    :param fold: whether what has no quotes is meant in lower case.
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
            # No more than the server does in UTF-8.
            elements.append(_UPPER.sub(lambda letters: letters[0].lower(), bare) if fold else bare)
        if not match["end"]:
            return elements
        position = match.end()
    return None
