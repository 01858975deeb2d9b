"""What lies one level above and below a prefix that holds no backups: the URI may have been mistyped."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote

from airflow_pg_s3.core.errors import InputError, PgS3Error
from airflow_pg_s3.core.repository.repository import Repository

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_LOOKED_AT = 20


def holds_backups(repository: Repository) -> bool:
    """True if there is a complete backup of any database.

    :raises InputError: there is no such bucket, or no right to use it.
    :raises StorageError: S3 failed.
    """
    return next(_with_backups(repository), None) is not None


def no_backups(repository: Repository) -> InputError:
    """Return the error for a repository that holds no backups, with the one that may be meant."""
    root, _, last = repository.root.rpartition("/")
    meant = ""
    # Whoever may use a prefix may have no right to look around it.
    with contextlib.suppress(PgS3Error):
        meant = _below(repository) or (_above(repository, root, last) if root != "s3:/" else "")
    hint = meant or "has one been made, and are bucket and prefix right?"
    return InputError(f"there are no backups below {repository.root}: {hint}")


def folder_not_repository(repository: Repository) -> InputError | None:
    """Return the error for a repository that is the folder of a database."""
    above, _, last = repository.root.rpartition("/")
    if not _is_of_database(repository.client, repository.root):
        return None
    return InputError(
        f"{repository.root} is the folder of a database: name the repository, {above}, and the database, "
        f"{unquote(last)}"
    )


def folder_not_backup(client: S3Client, uri: str) -> InputError | None:
    """Return the error for a URI that should be a backup's, and is a repository's or a database's folder."""
    uri = uri.rstrip("/")
    if _is_of_database(client, uri):
        return InputError(f"{uri} is the folder of a database: name a backup in it, such as {uri}/latest")
    # Whoever may read an archive may have no right to look around it.
    with contextlib.suppress(PgS3Error):
        repository = Repository(client, uri)
        if (database := next(_with_backups(repository), None)) is not None:
            backup = f"{repository.uri(repository.base(database))}latest"
            return InputError(f"{uri} is a repository: name a backup in it, such as {backup}")
    return None


def _is_of_database(client: S3Client, uri: str) -> bool:
    """True if a URI is the folder of a database's backups; False also if nobody may look above it."""
    above, _, last = uri.rpartition("/")
    with contextlib.suppress(PgS3Error):
        return above != "s3:/" and next(Repository(client, above).newest_first(unquote(last)), None) is not None
    return False


def _below(repository: Repository) -> str:
    for folder in repository.databases()[:_LOOKED_AT]:
        inner = Repository(repository.client, f"{repository.root}/{folder}")
        if holds_backups(inner):
            return f"did you mean {inner.root}?"
    return ""


def _above(repository: Repository, root: str, last: str) -> str:
    parent = Repository(repository.client, root)
    if (database := unquote(last)) in _with_backups(parent):
        return f"it is the folder of a database: write {parent.root}, and name the database {database!r} by itself"
    near = difflib.get_close_matches(last, parent.databases())
    return f"did you mean {' or '.join(f'{parent.root}/{name}' for name in near)}?" if near else ""


def _with_backups(repository: Repository) -> Iterator[str]:
    for database in repository.databases()[:_LOOKED_AT]:
        if database and next(repository.newest_first(database), None) is not None:
            yield database
