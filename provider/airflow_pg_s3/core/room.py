"""Room on the spool's disk, looked at before something is written there."""

from __future__ import annotations

import shutil
from pathlib import Path

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.progress import human


def make_sure_of_room(folder: Path, size: int, *, what: str, instead: str = "") -> None:
    """Refuse what does not fit.

    :param size: bytes that are about to be written.
    :param what: what they are, for the message.
    :param instead: what else than a bigger disk would help, for the message.
    :raises InputError: the disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"spool_dir has {human(free)} free, but {what} takes {human(size)} there: give a spool_dir with more "
            f"room{', or ' + instead if instead else ''}"
        )
