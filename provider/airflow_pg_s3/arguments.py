"""Arguments of operators, hook and sensor, converted for the core from the text that templates may render."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.repository.backup_name import parse_time

Coercion = Callable[[Any, str], Any]
"""(value, name of the argument) → the value for the core; raises `InputError`."""

_TRUE = ("true", "yes", "1")
_FALSE = ("false", "no", "0")
# Parameters of S3 requests that are secrets.
_SECRET = ("SSECustomerKey", "CopySourceSSECustomerKey")


def coerced(given: Mapping[str, Any], coercions: Mapping[str, Coercion]) -> dict[str, Any]:
    """Convert the arguments that are given; what is left out keeps the core's default.

    :raises InputError: one cannot be converted; the message names it.
    """
    return {name: convert(given[name], name) for name, convert in coercions.items() if name in given}


def as_it_is(value: Any, parameter: str) -> Any:
    """Return a value that no template renders, or that the core checks itself."""
    return value


def as_database(value: Any, *, otherwise: str = "", parameter: str = "database") -> str | None:
    """Check the name of a database, which a template may have rendered.

    :param otherwise: the meaning of None, for the message; empty if a database must be named.
    :raises InputError: the name is missing, empty, or a template's text for None.
    """
    if value is None and otherwise:
        return None
    if not isinstance(value, str) or value.strip() in ("", "None"):
        hint = f", or leave the argument out for {otherwise}" if otherwise else ""
        raise InputError(f"{parameter} must be the name of a database, not {value!r}: name one{hint}")
    return value


def as_optional_text(value: Any, parameter: str) -> str | None:
    """Convert a text that may be left out: None, an empty text, or a template's text for None.

    :raises InputError: it is no text.
    """
    if _is_absent(value):
        return None
    if not isinstance(value, str):
        raise InputError(f"{parameter} must be text, not {value!r}")
    return value


def as_list(value: Any, parameter: str) -> list[str]:
    """Convert a list argument: a list, or the JSON text of one.

    :raises InputError: it is neither; another string could mean one item or several in shell syntax, and is not
        guessed.
    """
    value = _from_json(value, "[")
    if _is_absent(value):
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{parameter} must be a list of strings, not {value!r}")
    return [str(item) for item in value]


def as_commands(value: Any, parameter: str) -> list[str]:
    """Convert SQL: a text of one or more commands, or a list of texts.

    :raises InputError: it is neither.
    """
    if isinstance(value, str):
        return [] if _is_absent(value.strip()) else [value]
    return as_list(value, parameter)


def as_labels(value: Any, parameter: str) -> dict[str, str]:
    """Convert labels: a mapping, or the JSON text of one.

    :raises InputError: it is neither, or a value is neither text nor a number.
    """
    labels = as_mapping(value, parameter)
    if not all(isinstance(text, str | int | float) for text in labels.values()):
        raise InputError(f'{parameter} must be a mapping such as {{"release": "42"}}, not {value!r}')
    return {str(name): str(text) for name, text in labels.items()}


def as_mapping(value: Any, parameter: str) -> dict[str, Any]:
    """Convert a mapping, or the JSON text of one.

    :raises InputError: it is neither.
    """
    value = _from_json(value, "{")
    if _is_absent(value):
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f'{parameter} must be a mapping such as {{"name": "value"}}, not {value!r}')
    return dict(value)


def as_bool(value: Any, parameter: str) -> bool:
    """Convert a boolean, or its text: true, yes or 1; false, no or 0.

    :raises InputError: it is not a boolean.
    """
    text = str(value).strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise InputError(f"{parameter} must be True or False, not {value!r}")
    return text in _TRUE


def as_int(value: Any, parameter: str) -> int:
    """Convert an integer, or its text.

    :raises InputError: it is not an integer.
    """
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{parameter} must be a number, not {value!r}") from error


def as_optional_int(value: Any, parameter: str) -> int | None:
    """Convert an integer that may be left out.

    :raises InputError: it is not an integer.
    """
    return None if _is_absent(value) else as_int(value, parameter)


def as_count(value: Any, parameter: str) -> int:
    """Convert an integer that is 0 if it is left out.

    :raises InputError: it is not an integer.
    """
    return as_optional_int(value, parameter) or 0


def as_optional_time(value: Any, parameter: str) -> datetime | None:
    """Convert a time that may be left out: a `datetime`, or ISO 8601 text, in UTC unless it says otherwise.

    :raises InputError: it is no time.
    """
    if _is_absent(value):
        return None
    return parse_time(value.isoformat() if isinstance(value, datetime) else str(value), parameter)


def without_secrets(s3_extra_args: Any) -> Any:
    """Return extra arguments without keys of SSE-C: Airflow stores and shows templated arguments."""
    if not isinstance(s3_extra_args, Mapping):
        return s3_extra_args
    return {name: value for name, value in s3_extra_args.items() if name not in _SECRET}


def secrets_of(s3_extra_args: Any) -> dict[str, Any]:
    """Return what `without_secrets` leaves out."""
    given = s3_extra_args if isinstance(s3_extra_args, Mapping) else {}
    return {name: value for name, value in given.items() if name in _SECRET}


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value in ("", "None"))


def _from_json(value: Any, first: str) -> Any:
    """Read a text that begins as JSON; return anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(first):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
