"""The interface of a restore's source, and of the plan that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from airflow_pg_s3.core.restore.target import Target


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much was restored.

    :param tables: number of tables whose data was restored; None if the archive does not say.
    :param rows: number of rows in these tables; None if the archive does not say.
    :param raw_bytes: bytes of data that pg_restore, psql or COPY received.
    :param read_bytes: bytes that were read from S3.
    """

    tables: int | None
    rows: int | None
    raw_bytes: int
    read_bytes: int


class Plan(Protocol):
    """A restore that has been checked and not begun."""

    @property
    def program(self) -> str:
        """Name and version of the program that restores."""

    def prepare(self) -> None:
        """Check that the target has what the restore needs, then create the database if it is missing."""

    def fill(self) -> Amounts:
        """Restore."""


class Source(Protocol):
    """A backup of ours, or an archive of another tool."""

    @property
    def name(self) -> str:
        """Id of the backup, or the last part of the archive's key."""

    @property
    def description(self) -> str:
        """The source, for the log."""

    def plan(self, target: Target) -> Plan:
        """Decide how the source is restored; nothing is touched.

        :raises InputError: the request, the source and the target do not fit together.
        :raises DataConflict: the target holds something that is in the way.
        """
