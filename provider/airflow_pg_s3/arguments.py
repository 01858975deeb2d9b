"""Arguments of operators and sensors, converted for the core from the text that templates may render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_pg_s3.core.errors import InputError


def as_database(value: Any, *, otherwise: str = "") -> str | None:
    """Check the argument `database`, which a template may have rendered.

    :param otherwise: the meaning of None, for the message; empty if a database must be named.
    :raises InputError: the name is missing, empty, or a template's text for None.
    """
    if value is None and otherwise:
        return None
    if not isinstance(value, str) or value.strip() in ("", "None"):
        hint = f", or leave the argument out for {otherwise}" if otherwise else ""
        raise InputError(f"database must be the name of a database, not {value!r}: name one{hint}")
    return value


def as_list(value: Any, parameter: str) -> list[str]:
    """Convert a list argument that a template may have rendered.

    :raises InputError: it is no list; a string could mean one item or several in shell syntax, and is not guessed.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{parameter} must be a list of strings, not {value!r}")
    return [str(item) for item in value]


def as_commands(value: Any, parameter: str) -> list[str]:
    """Convert SQL that a template may have rendered: a text of one or more commands, or a list of texts.

    :raises InputError: it is neither.
    """
    if isinstance(value, str):
        return [value] if value.strip() else []
    return as_list(value, parameter)


def as_labels(value: Any) -> dict[str, str]:
    """Convert labels that a template may have rendered.

    :raises InputError: it is no mapping, or a value is neither text nor a number.
    """
    if value in (None, ""):
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(v, str | int | float) for v in value.values()):
        raise InputError(f'labels must be a mapping such as {{"release": "42"}}, not {value!r}')
    return {str(name): str(text) for name, text in value.items()}


def as_bool(value: Any, parameter: str) -> bool:
    """Convert a boolean that a template may have rendered as text.

    :raises InputError: it is not a boolean.
    """
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise InputError(f"{parameter} must be True or False, not {value!r}")


def as_int(value: Any, parameter: str) -> int:
    """Convert an integer that a template may have rendered as text.

    :raises InputError: it is not an integer.
    """
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{parameter} must be a number, not {value!r}") from error
