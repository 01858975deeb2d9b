"""The repositories that the option ``[pg_s3] repositories`` gives names to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from airflow.providers.common.compat.sdk import conf
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.reporting import parse_duration
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.hooks import connections

DEFAULT_AWS_CONN_ID = "aws_default"
_OPTION = "the option [pg_s3] repositories"


def _duration(text: Any) -> timedelta | None:
    return None if text is None else parse_duration(str(text))


@dataclass(frozen=True, kw_only=True)
class NamedRepository:
    """A repository that can be named where ``s3://bucket/prefix`` can be given.

    :param uri: ``s3://bucket/any/prefix``.
    :param aws_conn_id: AWS connection; None for the machine's own credentials.
    :param max_age: how old the newest backup of each database may be; None if there is no rule.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    uri: Annotated[str, Field(pattern=r"^s3://[^/]+")]
    aws_conn_id: str | None = DEFAULT_AWS_CONN_ID
    max_age: Annotated[timedelta | None, BeforeValidator(_duration)] = None


_NAMED = TypeAdapter(list[NamedRepository])


def named_repositories() -> list[NamedRepository]:
    """Return the repositories of the option ``[pg_s3] repositories``, in its order.

    :raises InputError: the option does not hold what it should.
    """
    text = conf.get("pg_s3", "repositories", fallback="")
    if not text or not text.strip():
        return []
    try:
        named = _NAMED.validate_python(json.loads(text))
    except json.JSONDecodeError as error:
        raise InputError(f"{_OPTION} is not JSON: {error}") from error
    except ValidationError as error:
        raise InputError(
            f"{_OPTION} must be a list of objects with 'name', 'uri' and perhaps 'aws_conn_id' and 'max_age': "
            f"{_first(error)}"
        ) from error
    twice = [name for name, count in Counter(repository.name for repository in named).items() if count > 1]
    if twice:
        raise InputError(f"{_OPTION} gives the name {twice[0]!r} to two repositories")
    return named


def find_repository(name: str) -> NamedRepository:
    """Return the repository of this name.

    :raises InputError: there is none; the message has the names that there are.
    """
    named = {repository.name: repository for repository in named_repositories()}
    if name not in named:
        names = ", ".join(named) or "no names yet"
        raise InputError(
            f"repository must look like s3://bucket/prefix, or be a name in {_OPTION} ({names}), not {name!r}"
        )
    return named[name]


def name_of(uri: str) -> str | None:
    """Return the name of the repository that holds a backup, by its URI; None if it has none."""
    folder = uri.rsplit("/", 2)[0]
    return next((one.name for one in named_repositories() if one.uri.rstrip("/") == folder), None)


def open_repository(
    repository: str, aws_conn_id: str | None, s3_extra_args: Mapping[str, Any] | None = None
) -> tuple[Repository, dict[str, Any]]:
    """Open a repository, given by its URI or its name.

    :param aws_conn_id: with a name, ``aws_default`` stands for the named repository's own connection.
    :returns: the repository, and the extra arguments for requests that store objects.
    :raises InputError: there is no such repository or connection, or it cannot be used.
    :raises StorageError: the connection's role cannot be assumed.
    """
    client, arguments = connections.s3_client(aws_conn_id_of(repository, aws_conn_id), s3_extra_args)
    return Repository(client, find_repository(repository).uri if _is_name(repository) else repository), arguments


def aws_conn_id_of(repository: str, aws_conn_id: str | None) -> str | None:
    """Return the AWS connection of a repository; arguments and errors as of `open_repository`."""
    if _is_name(repository) and aws_conn_id == DEFAULT_AWS_CONN_ID:
        return find_repository(repository).aws_conn_id
    return aws_conn_id


def _is_name(repository: str) -> bool:
    return isinstance(repository, str) and not repository.startswith("s3://")


def _first(error: ValidationError) -> str:
    """Say what is wrong in the first place, and where: items are counted from 1."""
    first = error.errors(include_url=False, include_input=False)[0]
    item, *fields = first["loc"] or (None,)
    where = [f"item {item + 1}"] if isinstance(item, int) else []
    return f"{', '.join([*where, *map(repr, fields)])}: {first['msg']}".removeprefix(": ")
