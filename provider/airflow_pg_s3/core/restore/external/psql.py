"""The choice of a psql to replay plain dumps with: one that a dump cannot make run commands on the worker."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres import client_versions

# Vulnerability → major → first fixed minor. Older majors have no fix, newer ones need none.
# https://www.postgresql.org/support/security/
FIXED_IN: Mapping[str, Mapping[int, int]] = {
    "CVE-2025-8714": {13: 22, 14: 19, 15: 14, 16: 10, 17: 6, 18: 0},
    "CVE-2026-18408": {14: 24, 15: 19, 16: 15, 17: 11, 18: 6},
}
_RESTRICT_SINCE = "CVE-2025-8714"


@dataclass(frozen=True, kw_only=True)
class Psql:
    """A psql on this worker.

    :param version: its version, such as ``16.14``.
    :param open_to: its vulnerabilities, of those in `FIXED_IN`.
    """

    path: str
    version: str
    open_to: list[str]

    @property
    def knows_restrict(self) -> bool:
        r"""True if it knows ``\restrict``, which disables a script's other meta-commands."""
        return _RESTRICT_SINCE not in self.open_to


def choose_psql(search: Sequence[str], *, allow_unsafe: bool) -> Psql:
    """Return the newest psql without known vulnerabilities; any version works with any server.

    :param search: folders to search before ``PATH`` and the standard folders.
    :param allow_unsafe: if there is none, return the newest.
    :raises InputError: there is none; the message says why those found are refused.
    """
    found = _installed(search)
    if not found:
        raise InputError(
            "a plain dump is replayed with psql, and there is none beside the pg_restore programs on this worker: "
            "install the package postgresql-client, or name its folder in the option [pg_s3] client_path"
        )
    best = max(found, key=lambda psql: (not psql.open_to, _numbers(psql.version)))
    if best.open_to and not allow_unsafe:
        versions = "; ".join(f"psql {psql.version} has {' and '.join(psql.open_to)}" for psql in found)
        raise InputError(
            "a plain dump is a script for psql, and whoever controlled the server that it comes from can make "
            f"these versions run any command on this worker: {versions}. Install {_fixed_versions()} or later, or "
            "dump in the format custom (pg_dump -Fc). If you trust that server, give allow_unsafe_psql=True"
        )
    return best


def open_to(version: str) -> list[str]:
    """Return the vulnerabilities of a version of psql."""
    major, minor = _numbers(version)
    return [
        name
        for name, fixed in FIXED_IN.items()
        if major <= max(fixed) and (major not in fixed or minor < fixed[major])
    ]


def _installed(search: Sequence[str]) -> list[Psql]:
    found = []
    for tools in client_versions.installed(search):
        path = tools.path("psql")
        # psql is in the same package, but only its own --version counts.
        try:
            version = client_versions.said_version(path)
        except (OSError, subprocess.SubprocessError):
            continue
        if version is not None:
            found.append(Psql(path=path, version=version, open_to=open_to(version)))
    return found


def _numbers(version: str) -> tuple[int, int]:
    # A release candidate such as 18rc1 comes before 18.0.
    match = re.match(r"(\d+)(?:\.(\d+))?", version)
    if match is None:
        return 0, -1
    return int(match.group(1)), int(match.group(2) or -1)


def _fixed_versions() -> str:
    majors = set[int].intersection(*(set(fixed) for fixed in FIXED_IN.values()))
    latest = {major: max(fixed[major] for fixed in FIXED_IN.values()) for major in majors}
    versions = [f"{major}.{minor}" for major, minor in sorted(latest.items(), reverse=True)]
    return f"{', '.join(versions[:-1])} or {versions[-1]}"
