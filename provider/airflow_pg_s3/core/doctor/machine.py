"""Looks at this machine's disk."""

from __future__ import annotations

import shutil
import threading

from airflow_pg_s3.core.backup.spool import Spool, punch_hole
from airflow_pg_s3.core.doctor.findings import Findings
from airflow_pg_s3.core.reporting import human
from airflow_pg_s3.core.workspace.workspace import Workspace

_PROBE_BYTES = 1 << 16


def examine_machine(spool_dir: str | None, spool_limit: int, size_bytes: int | None, findings: Findings) -> None:
    """Look at the spool's disk and its filesystem.

    :param spool_limit: bytes that a backup may take there.
    :param size_bytes: of the database; None if that is not known.
    """
    with findings.failing("spool"), Workspace(spool_dir) as workspace:
        Spool(workspace.make_folder("spool"), cancel=threading.Event())
        probe = workspace.folder / "hole"
        probe.write_bytes(bytes(_PROBE_BYTES))
        can_punch = punch_hole(probe, 0, _PROBE_BYTES)
        folder = workspace.folder.parent
        free = shutil.disk_usage(folder).free
        # Without holes, the largest tables stay until they are shipped, which may be all of it.
        needed = spool_limit if can_punch or size_bytes is None else max(spool_limit, size_bytes)
        found = f"{folder} has {human(free)} free"
        if free < needed:
            findings.fail(
                "spool",
                f"{found}; a backup may take {human(needed)}",
                "make room, give another spool_dir, or a lower spool_limit",
            )
        elif not can_punch:
            findings.warn(
                "spool",
                f"{found}, and a filesystem without holes",
                "large tables stay on it until they are shipped: ext4, XFS, btrfs and tmpfs have holes",
            )
        else:
            findings.ok("spool", f"{found}, and a filesystem that fits; a backup takes up to {human(needed)}")
