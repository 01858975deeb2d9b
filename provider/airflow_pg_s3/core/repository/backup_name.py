"""Names of backups: ``s3://bucket/prefix/<database>/<name>`` in place of the URI of a manifest.

A name is ``latest``, ``latest-verified``, a time such as ``2026-11-20T03:00`` (the newest backup that is not
younger), or the beginning of an id that no other id shares.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from bisect import bisect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from airflow_pg_s3.core.errors import InputError, PgS3Error
from airflow_pg_s3.core.reporting import Log, some_of
from airflow_pg_s3.core.repository.backup_id import LATEST, LATEST_VERIFIED, time_of
from airflow_pg_s3.core.repository.catalog import Selection, select
from airflow_pg_s3.core.repository.listing import MANIFEST_SUFFIX
from airflow_pg_s3.core.repository.neighbours import folder_not_backup
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3.requests import parse_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+(?:Z|[+-][0-9:]+)?")
_BEGINNING = re.compile(r"[0-9]{4,8}|[0-9]{8}T[0-9]{0,6}|[0-9]{8}T[0-9]{6}Z(?:-[0-9a-f]{0,6})?")
_SHOWN = 5


def resolve(client: S3Client, uri: str, log: Log) -> str:
    """Return the URI of the manifest that a name stands for; what ends in no name is returned as it is.

    :raises InputError: there is no such backup, or it is not clear which is meant; the message has what is near.
    :raises StorageError: S3 failed.
    """
    if not isinstance(uri, str) or uri.endswith(MANIFEST_SUFFIX):
        return uri
    bucket, key = parse_uri(uri, parameter="backup")
    folder, _, name = key.rpartition("/")
    prefix, _, encoded = folder.rpartition("/")
    problem = _problem(uri, name, encoded)
    if problem is None and not _is_name(name):
        mistake = None
        # Whoever may read an archive may have no right to look for it.
        with contextlib.suppress(PgS3Error):
            mistake = None if _is_object(client, bucket, key) else folder_not_backup(client, uri)
        if mistake is not None:
            raise mistake
        return uri
    # An archive of another tool may be called so.
    is_object = _is_object(client, bucket, key)
    if problem is not None:
        if is_object:
            return uri
        raise InputError(problem)
    repository = Repository(client, f"s3://{bucket}/{prefix}")
    found = _find(repository, unquote(encoded), name, log, required=not is_object)
    if found is None:
        return uri
    if is_object:
        raise InputError(f"{uri} is an object, and also a name of {found}: write that URI, or rename the object")
    log.info("%s is %s", uri, found)
    return found


def parse_time(text: str, parameter: str) -> datetime:
    """Read ISO 8601, in UTC unless it says otherwise.

    :param parameter: what it was given for, for the message.
    :raises InputError: it is no time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{parameter} must be a time such as 2026-01-31T05:00:00Z, not {text!r}") from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _is_name(name: str) -> bool:
    return bool(name in (LATEST, LATEST_VERIFIED) or _TIME.fullmatch(name) or _BEGINNING.fullmatch(name))


def _problem(uri: str, name: str, database: str) -> str | None:
    """Say why a name stands for no backup, whichever there are."""
    words = [LATEST, LATEST_VERIFIED]
    near = difflib.get_close_matches(name.lower(), words, cutoff=0.8)
    if near and name not in words:
        return f"there is no backup {uri}: did you mean {uri.removesuffix(name)}{near[0]}?"
    if _DAY.fullmatch(name):
        return f"{name} is a day, and backups have times: write one, such as {uri}T23:59:59"
    if _is_name(name) and not database:
        return f"{uri} does not say of which database: write s3://bucket/prefix/DATABASE/{name}"
    return None


def _is_object(client: S3Client, bucket: str, key: str) -> bool:
    # Not HeadObject, which takes another right than lists do. Of keys that begin so, it would be the first.
    with s3_errors.translate_errors(bucket):
        answer = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    return any(entry["Key"] == key for entry in answer.get("Contents", []))


def _find(repository: Repository, database: str, name: str, log: Log, *, required: bool) -> str | None:
    """Find the backup of a name; None if there is none, and it is not required."""
    if _BEGINNING.fullmatch(name):
        refs = repository.beginning_with(database, name)
        if len(refs) > 1:
            raise InputError(
                f"{len(refs)} backups of {database!r} have ids that begin with {name}: which of "
                f"{some_of([str(ref.backup_id) for ref in refs], _SHOWN)}?"
            )
        uris = [ref.uri for ref in refs]
    else:
        time = parse_time(name, "the last part of backup") if _TIME.fullmatch(name) else None
        # Up to and with it: times of manifests have microseconds.
        before = time and time + timedelta(microseconds=1)
        wanted = Selection(database=database, before=before, verified_only=name == LATEST_VERIFIED, limit=1)
        uris = [entry.ref.uri for entry in select(repository, wanted, log)]
    if not uris and required:
        raise _none(repository, database, name)
    return uris[0] if uris else None


def _none(repository: Repository, database: str, name: str) -> InputError:
    where = repository.uri(repository.base(database))
    ids = [str(ref.backup_id) for ref in reversed(repository.backups(database))]
    if not ids:
        inner = [one for one in Repository(repository.client, where).databases() if time_of(one) is None]
        if inner:
            meant = f"{where}{quote(inner[0], safe='') if len(inner) == 1 else 'DATABASE'}/{name}"
            return InputError(
                f"{where}{name} lacks the name of the database: write {meant} (there are {some_of(inner, _SHOWN)})"
            )
        return InputError(
            f"there is no backup of {database!r} in {where}: {other_databases(repository, database)}"
        )
    if name == LATEST_VERIFIED:
        return InputError(f"no backup in {where} is verified: verify one, or take {LATEST}, which is {ids[-1]}")
    if name == LATEST:
        return InputError(f"none of the backups in {where} can be read; the newest is {ids[-1]}")
    if _TIME.fullmatch(name):
        return InputError(f"no backup in {where} is of {name} or older: the oldest is {ids[0]}")
    place = bisect(ids, name)
    near = ids[max(0, place - 2) : place + 2]
    return InputError(f"no backup in {where} has an id that begins with {name}: near are {some_of(near, _SHOWN)}")


def other_databases(repository: Repository, database: str) -> str:
    """Say which databases have backups, or which one may be meant, where none are of the one that is named."""
    names = [name for name in repository.databases() if name != database]
    near = difflib.get_close_matches(database, names)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"there are some of {some_of(names, _SHOWN)}" if names else "there are none of any other either"
