"""Connections, as a command gets them."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from airflow_pg_s3.cli.libpq import postgres_parameters
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.codec import identities_in
from airflow_pg_s3.core.s3 import extra_args
from airflow_pg_s3.core.s3.errors import unusable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# More than all threads of one command use at the same time, at any sensible number of jobs.
_POOL = 64


class Connections(Protocol):
    """Connections by the names that a command was given for them."""

    def postgres(self, name: str) -> tuple[ConnectionParameters, bool]:
        """Where a database is; and whether the name says which database of the server."""

    def s3(self) -> tuple[S3Client, dict[str, Any]]:
        """A boto3 client, and the extra arguments for what is stored."""

    def s3_of_copy(self) -> tuple[S3Client, dict[str, Any]]:
        """The same for where a copy goes."""

    def identities(self) -> list[str]:
        """Age identities that may open encrypted backups."""

    @property
    def client_path(self) -> Sequence[str]:
        """Folders to look for client programs in, before the usual ones."""


class CommandLineConnections:
    """Connections by libpq's and boto3's own rules."""

    def __init__(self, arguments: Namespace, log: Log) -> None:
        self._arguments = arguments
        self._log = log

    def postgres(self, name: str) -> tuple[ConnectionParameters, bool]:
        """Where a database is; see `postgres_parameters`."""
        return postgres_parameters(name, self._log)

    def s3(self) -> tuple[S3Client, dict[str, Any]]:
        """Make a client from boto3's own chain of settings.

        :raises InputError: it cannot be made, or the extra arguments make no sense.
        """
        given = self._arguments
        return _s3(given.profile, given.region, given.endpoint_url, _read_json(given.s3_extra_args, ""))

    def s3_of_copy(self) -> tuple[S3Client, dict[str, Any]]:
        """Make a client for where a copy goes; raises as `s3`."""
        given = self._arguments
        return _s3(
            given.to_profile or given.profile,
            given.to_region or given.region,
            given.to_endpoint_url or given.endpoint_url,
            _read_json(given.to_s3_extra_args, "to-"),
        )

    def identities(self) -> list[str]:
        """Read the files with identities.

        :raises InputError: one cannot be read, or holds none.
        """
        return [identity for file in self._arguments.identity for identity in _identities_of(file)]

    @property
    def client_path(self) -> Sequence[str]:
        """The folders named."""
        folders: Sequence[str] = self._arguments.client_path
        return folders


def _s3(
    profile: str | None, region: str | None, endpoint_url: str | None, given: dict[str, Any]
) -> tuple[S3Client, dict[str, Any]]:
    try:
        session = boto3.Session(profile_name=profile, region_name=region)
        client = session.client("s3", endpoint_url=endpoint_url, config=Config(max_pool_connections=_POOL))
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"S3 cannot be used: {unusable(error)}") from error
    arguments = extra_args.checked(client, given)
    extra_args.apply_to_all(client, arguments)
    return client, arguments


def _identities_of(file: str) -> list[str]:
    found = identities_in(_read(file, "--identity"))
    if not found:
        raise InputError(f"{file} holds no age identity: age-keygen writes such files")
    return found


def _read_json(file: str | None, prefix: str) -> dict[str, Any]:
    option = f"--{prefix}s3-extra-args"
    if file is None:
        return {}
    try:
        value = json.loads(_read(file, option))
    except ValueError as error:
        raise InputError(f"{option}: {file} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{option}: {file} must hold a JSON object")
    return value


def _read(file: str, option: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option}: {file} cannot be read: {error}") from error
