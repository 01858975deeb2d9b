"""How a database is going to be dumped, decided before anything is touched."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from airflow_pg_s3.core.backup.estimate import expected_bytes
from airflow_pg_s3.core.backup.pg_dumpall import check_tools
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.backup.standby import warn_of_snapshots
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres import client_options, server
from airflow_pg_s3.core.postgres.choose_pg_dump import choose_pg_dump
from airflow_pg_s3.core.postgres.client_options import Given
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.server import ServerFacts
from airflow_pg_s3.core.reporting import Log
from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.repository import Repository, read_manifest


@dataclass(frozen=True, kw_only=True)
class DumpPlan:
    """How a database is dumped.

    :param request: with the source at the address that the first connection found.
    :param given: the user's options of pg_dump, by their long names.
    :param expected_bytes: that pg_dump is going to write; None if nobody knows.
    """

    request: BackupRequest
    facts: ServerFacts
    tools: ClientTools
    given: Mapping[str, str | None]
    expected_bytes: int | None


def plan_dump(
    request: BackupRequest,
    repository: Repository,
    connection: psycopg.Connection[tuple[Any, ...]],
    *,
    cancel: threading.Event,
    log: Log,
) -> DumpPlan:
    """Learn what the server is, choose pg_dump, and check its options and the bucket.

    :param connection: to the source.
    :raises InputError: it cannot work.
    :raises StorageError: S3 failed.
    """
    facts = server.inspect(connection, request.source)
    request = replace(request, source=request.source.pinned(connection))
    tools = choose_pg_dump(
        connection,
        request.source,
        facts.server,
        search=request.client_path,
        spool_dir=request.spool_dir,
        cancel=cancel,
    )
    given = client_options.check(request.pg_dump_options, tools=tools, program="pg_dump")
    if request.include_globals:
        check_tools(tools)
    repository.check_access(request.source.database)
    newest = _newest_of_this_server(repository, request.source.database, facts, log)
    _warn_of_part(given, log)
    warn_of_snapshots(connection, request.jobs, given, log)
    return DumpPlan(
        request=request,
        facts=facts,
        tools=tools,
        given=dict(given),
        expected_bytes=expected_bytes(
            connection, newest, request.pg_dump_options, client_options.left_out_by(given)
        ),
    )


def _warn_of_part(given: Sequence[Given], log: Log) -> None:
    left_out_by = client_options.left_out_by(given)
    if left_out_by:
        words = [
            f"--{name}" if value is None else f"--{name}={value}"
            for name, value in given
            if f"--{name}" in left_out_by
        ]
        log.warning("this backup holds a part of the database: %s left out the rest", ", ".join(words))


def _newest_of_this_server(repository: Repository, database: str, facts: ServerFacts, log: Log) -> Manifest | None:
    """Read the manifest of the newest backup; warn if it is of another server."""
    newest = next(iter(repository.backups(database)), None)
    if newest is None:
        return None
    try:
        manifest = read_manifest(repository.client, newest.uri).manifest
    except PgS3Error as error:
        log.warning("the newest backup in this place cannot be read: %s", error)
        return None
    ours, other = facts.server, manifest.server
    if (other.system_identifier, ours.system_identifier) != (None, None):
        same = other.system_identifier == ours.system_identifier
    else:
        same = other.host == ours.host
    if not same:
        log.warning(
            "%s is of another server (%s, system identifier %s) than this one (%s, %s) and has the same database "
            "name: give each server a repository of its own, or their backups will be taken for one another's",
            newest.uri,
            other.host,
            other.system_identifier,
            ours.host,
            ours.system_identifier,
        )
        return None
    return manifest
