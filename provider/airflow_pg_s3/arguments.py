"""Arguments of operators and sensors, which templates may turn into text, as what core takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_pg_s3.core.errors import InputError


def as_database(value: Any, *, otherwise: str = "") -> str | None:
    """Take the argument `database` as a template may have left it.

    :param otherwise: what None, which no template leaves by accident, stands for; nothing if one must be named.
    :raises InputError: it is empty, or text that a template makes of None.
    """
    if value is None and otherwise:
        return None
    if not isinstance(value, str) or value.strip() in ("", "None"):
        hint = f", or leave the argument out for {otherwise}" if otherwise else ""
        raise InputError(f"database must be the name of a database, not {value!r}: name one{hint}")
    return value


def as_list(value: Any, parameter: str) -> list[str]:
    """Take a list argument as a template may have left it.

    :raises InputError: a bare string: one item, or many in shell syntax? Neither is guessed.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{parameter} must be a list of strings, not {value!r}")
    return [str(item) for item in value]


def as_commands(value: Any, parameter: str) -> list[str]:
    """Take SQL as a template may have left it: a text of one command or more, or a list of such.

    :raises InputError: it is something else.
    """
    if isinstance(value, str):
        return [value] if value.strip() else []
    return as_list(value, parameter)


def as_labels(value: Any) -> dict[str, str]:
    """Take labels as a template may have left them.

    :raises InputError: no mapping, or a value that is neither text nor a number.
    """
    if value in (None, ""):
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(v, str | int | float) for v in value.values()):
        raise InputError(f'labels must be a mapping such as {{"release": "42"}}, not {value!r}')
    return {str(name): str(text) for name, text in value.items()}


def as_bool(value: Any, parameter: str) -> bool:
    """Take a truth value as a template may have left it: as text, unless it renders native objects.

    :raises InputError: it is none.
    """
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise InputError(f"{parameter} must be True or False, not {value!r}")


def as_int(value: Any, parameter: str) -> int:
    """Take a number as a template may have left it.

    :raises InputError: it is none.
    """
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{parameter} must be a number, not {value!r}") from error
