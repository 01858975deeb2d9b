"""Where a restore comes from, and what every kind of source offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from airflow_pg_s3.core.restore.target import Target


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much was restored.

    :param tables: tables whose data was restored, with `rows` in them; None where the archive does not say.
    :param raw_bytes: what pg_restore, psql or COPY was given of the data.
    :param read_bytes: read from S3.
    """

    tables: int | None
    rows: int | None
    raw_bytes: int
    read_bytes: int


class Plan(Protocol):
    """A restore of which nothing has been done yet, and nothing contradicts itself."""

    @property
    def program(self) -> str:
        """Name and version of the program that restores."""

    def prepare(self) -> None:
        """Make sure that the target has what the restore needs, then create its database, if need be."""

    def fill(self) -> Amounts:
        """Restore."""


class Source(Protocol):
    """A backup of ours, or an archive of another tool."""

    @property
    def name(self) -> str:
        """Id of the backup, or the last part of the archive's key."""

    @property
    def description(self) -> str:
        """What it is, for the log."""

    def plan(self, target: Target) -> Plan:
        """Decide how it is restored; nothing is touched.

        :raises InputError: the request, the source and the target do not fit.
        :raises DataConflict: the target holds something.
        """
