"""Archives like those of other tools: pg_dump's formats, uncompressed and compressed."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from backports import zstd

from testkit.postgres import Cluster, installations

FORMATS = {"custom": "-Fc", "tar": "-Ft", "plain": "-Fp", "directory": "-Fd"}
COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "bare": lambda data: data,
    "gzip": lambda data: gzip.compress(data, compresslevel=1),
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}


def dump(
    cluster: Cluster, database: str, form: str, folder: Path, *options: str, major: int | None = None
) -> bytes:
    """Return the bytes of an archive, which is made in `folder`; a directory is packed with tar.

    :param major: major version of pg_dump; the cluster's own if None.
    """
    path = folder / f"{form}.dump"
    pg_dump = (installations()[major] if major else cluster.pg_bin) / "pg_dump"
    argv = [str(pg_dump), FORMATS[form], "-f", str(path), *options]
    subprocess.run(argv, env=cluster.client_env(database), check=True)
    if form != "directory":
        return path.read_bytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(path, arcname="backup of it")
    shutil.rmtree(path)
    return packed.getvalue()
