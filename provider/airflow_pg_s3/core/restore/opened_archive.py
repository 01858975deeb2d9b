"""An archive of pg_dump that is about to be restored, whoever made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from airflow_pg_s3.core.postgres.archive.definitions import Definition, definitions_of
from airflow_pg_s3.core.postgres.archive.requirements import Requirements, requirements_of
from airflow_pg_s3.core.postgres.archive.toc import Entry, Toc
from airflow_pg_s3.core.postgres.client_options import Given
from airflow_pg_s3.core.postgres.client_tools import ClientTools
from airflow_pg_s3.core.postgres.server import Server


@dataclass(frozen=True, kw_only=True)
class OpenedArchive:
    """An archive whose table of contents is on the disk, and what of it is restored.

    :param path: a file, or a folder of which only toc.dat must be there. The folder around it is written to.
    :param toc: its table of contents.
    :param entries: those that are restored, in the order of restoring.
    :param ties: those that tie them to what the target may have: foreign keys, memberships in publications.
    :param tools: the programs that restore it.
    :param options: the user's, of pg_restore.
    :param given: the same, as `client_options.check` has read them.
    :param server: the source, as far as it is known.
    :param lc_monetary: the locale that money is in; None for the server's own.
    :param globals_script: what roles and tablespaces are created from; None: none are.
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
        """Whether the planner's statistics come with the data."""
        return any(entry.kind == "STATISTICS DATA" for entry in self.entries)

    def requirements(self, entries: Sequence[Entry]) -> Requirements:
        """What entries need of the target; raises as `requirements_of`."""
        return requirements_of(self.path, self.toc, entries, tools=self.tools, options=self.options)

    def definitions(self, entries: Iterable[Entry], options: Sequence[str]) -> list[Definition]:
        """Commands of entries, by pg_restore with `options`; raises as `definitions_of`."""
        return definitions_of(self.path, entries, tools=self.tools, codec=self.toc.codec, options=options)
