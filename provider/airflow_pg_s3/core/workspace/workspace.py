"""A private folder for one run, which cannot outlive it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.workspace import janitor
from airflow_pg_s3.core.workspace.resources import is_resource_exhaustion

_PREFIX = "airflow-pg-s3-"
_LOCK = "owner.lock"


class Workspace:
    """A folder of mode 0700 and the processes that work in it.

    When the context ends, for any reason including the death of this process, the processes are killed and the
    folder is deleted, by a janitor process (see `janitor`). Something is left only if the janitor dies too, as
    when the machine stops; the next workspace in the same parent folder removes it.

    :param parent: folder to create it in; None for the system's temporary folder.
    :raises InputError: `parent` is not a writable folder.
    :raises OSError: the machine has run out of disk space, or of open files.
    """

    def __init__(self, parent: str | None = None) -> None:
        self._parent = Path(parent or tempfile.gettempdir())
        self.folder = Path()
        self._janitor: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def __enter__(self) -> Workspace:
        _sweep(self._parent)
        self.folder = self._parent.absolute() / f"{_PREFIX}{secrets.token_hex(8)}"
        # The janitor starts before there is a folder, so that a kill from then on leaves none.
        self._janitor = subprocess.Popen(
            [sys.executable, "-I", "-S", janitor.__file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},
            start_new_session=True,
        )
        try:
            try:
                self.folder.mkdir(mode=0o700)
            except OSError as error:
                if is_resource_exhaustion(error):
                    raise
                raise InputError(f"spool_dir {self._parent} cannot be written: {error.strerror}") from error
            # The lock file gets its name only when it is locked: a sweep takes an unlocked one for abandoned.
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.rename(self.folder / "lock", self.folder / _LOCK)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._janitor is not None and self._janitor.stdin is not None:
                self._janitor.stdin.close()
                self._janitor.wait()
        finally:
            if os.path.exists(self.folder):  # the janitor was killed; Path.exists() may raise
                janitor.clean_up(str(self.folder))
            self._close()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the workspace's processes, by which the janitor finds them."""
        return {janitor.VARIABLE: str(self.folder)}

    @property
    def server_option(self) -> str:
        """Argument for a PostgreSQL server in the workspace, by which the janitor finds its processes."""
        return janitor.server_option(str(self.folder))

    def make_folder(self, name: str) -> Path:
        """Create a folder of mode 0700 in the workspace."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        return path

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _sweep(parent: Path) -> None:
    """Remove workspaces that nobody has locked, left when a machine stopped."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            descriptor = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                janitor.clean_up(str(folder))
            finally:
                os.close(descriptor)
