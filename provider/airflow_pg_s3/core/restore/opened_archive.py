"""A pg_dump archive, ours or another tool's, that is about to be restored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from airflow_pg_s3.core.postgres.archive.definitions import Definition, definitions_of
from airflow_pg_s3.core.postgres.archive.requirements import Requirements, requirements_of
from airflow_pg_s3.core.postgres.archive.toc import Entry, Toc
from airflow_pg_s3.core.postgres.client_options import Given
from airflow_pg_s3.core.postgres.client_versions import ClientTools
from airflow_pg_s3.core.postgres.server import Server


@dataclass(frozen=True, kw_only=True)
class OpenedArchive:
    """An archive whose table of contents is on disk, with the entries to restore.

    :param path: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param toc: its table of contents.
    :param entries: the entries to restore, in pg_restore's order.
    :param ties: entries that link these to other objects, which the target may have (`selection.Selected`).
    :param tools: the programs that restore it.
    :param options: the user's options for pg_restore.
    :param given: the same options, as parsed by `client_options.check`.
    :param server: the source server, as far as it is known.
    :param lc_monetary: the locale of money values; None for the server's own.
    :param globals_script: the script of roles and tablespaces to create; None to create none.
    :param has_globals: whether the backup holds such a script.
    """

    path: Path
    toc: Toc
    entries: list[Entry]
    ties: list[Entry] = field(default_factory=list)
    tools: ClientTools
    options: Sequence[str]
    given: Sequence[Given]
    server: Server | None
    lc_monetary: Literal["C"] | None = None
    globals_script: str | None = None
    has_globals: bool = False

    @property
    def subscriptions(self) -> set[str]:
        """Names of the subscriptions that are restored."""
        return {entry.name for entry in self.entries if entry.kind == "SUBSCRIPTION"}

    @property
    def has_statistics(self) -> bool:
        """True if the planner's statistics are restored with the data."""
        return any(entry.kind == "STATISTICS DATA" for entry in self.entries)

    def requirements(self, entries: Sequence[Entry]) -> Requirements:
        """Return what entries need in the target; raises as `requirements_of`."""
        return requirements_of(self.path, self.toc, entries, tools=self.tools, options=self.options)

    def definitions(self, entries: Iterable[Entry], options: Sequence[str]) -> list[Definition]:
        """Return the commands that pg_restore runs for entries, given `options`; raises as `definitions_of`."""
        return definitions_of(self.path, entries, tools=self.tools, codec=self.toc.codec, options=options)
