"""The check of the stored objects: each is read, decoded and compared with the manifest, without PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

from airflow_pg_s3.core.errors import Cancelled, IntegrityError
from airflow_pg_s3.core.postgres.archive.table_data import tables_of_members
from airflow_pg_s3.core.postgres.archive.toc import TOC, LargeObjectNames, check_files, read_toc
from airflow_pg_s3.core.reporting import Log, Progress, human
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.digest import MemberDigest, MemberHasher
from airflow_pg_s3.core.repository.manifest import Manifest, Member
from airflow_pg_s3.core.repository.member_verifier import described
from airflow_pg_s3.core.repository.pack import PackReader
from airflow_pg_s3.core.repository.repository import StoredManifest
from airflow_pg_s3.core.repository.verification_record import Difference, TableResult
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.s3.requests import StoredObject, parse_uri
from airflow_pg_s3.core.verify.findings import Findings
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_POLL_SECONDS = 0.5


class _MemberDigest:
    """Hashes one member's bytes, and compares them with its manifest entry at the end."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.problem: str | None = f"{described(member)} is missing"
        self.rows: int | None = None
        self._digest = MemberHasher()
        self._names = LargeObjectNames() if member.name.endswith(".toc") else None

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        if self._names is not None:
            self._names.update(chunk)
        # Stops here, however much more a damaged stream would unpack to.
        if self._digest.raw_bytes > self.member.raw_bytes:
            raise IntegrityError(f"is longer than the {self.member.raw_bytes} bytes backed up")

    def close(self) -> None:
        if self._names is not None:
            self._names.finish()
        content = self._digest.finish()
        self.rows = content.copy_rows
        found = _difference(self.member, content)
        self.problem = f"{described(self.member)} {found}" if found else None


def check_objects(
    request: VerifyRequest,
    stored: StoredManifest,
    client: S3Client,
    findings: Findings,
    *,
    cancel: threading.Event,
    log: Log,
) -> None:
    """Read every object of a backup, and record what differs from the manifest in `findings`.

    :raises InputError: the backup is encrypted and no usable identity is given.
    :raises StorageError: S3 failed.
    :raises Cancelled: the verification was told to stop.
    """
    manifest = stored.manifest
    bucket, _ = parse_uri(request.backup, parameter="backup")
    decoder = Decoder(manifest.encryption, request.identities)
    stop = threading.Event()
    with (
        Workspace(request.spool_dir) as workspace,
        Downloader(client, bucket, cancel=stop, threads=request.jobs + 2) as downloader,
        ThreadPoolExecutor(request.jobs, thread_name_prefix="check") as pool,
    ):
        progress = Progress(
            log,
            lambda seconds: (
                f"read {human(downloader.read_bytes)} of {human(manifest.stored_bytes)}, "
                f"{human(downloader.read_bytes / max(seconds, 0.001))}/s"
            ),
            lambda: (downloader.read_bytes, manifest.stored_bytes),
        )
        objects = {
            record.key: StoredObject(key=stored.base + record.key, stored_bytes=record.stored_bytes)
            for record in manifest.objects
        }
        check = partial(_check, objects, downloader, decoder)
        pending = {pool.submit(check, *item) for item in _work(manifest)}
        try:
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    _note(future.result(), findings)
                if cancel.is_set():
                    raise Cancelled("stopped while the objects were read")
                progress.tick()
        except BaseException:
            stop.set()
            for future in pending:
                future.cancel()
            raise
        progress.end()
        if not findings.differences:
            _check_contents(ArchiveFolder(manifest, stored.base, downloader, decoder, workspace), findings)


def _work(manifest: Manifest) -> list[tuple[Sequence[str], Sequence[Member], bool]]:
    """Return (objects, members, whether they form a pack), the largest first, so that none is begun late."""
    work: list[tuple[Sequence[str], Sequence[Member], bool]] = [
        (objects, members, True) for objects, members in manifest.packs()
    ]
    work += [(member.objects, [member], False) for member in manifest.members if not member.packed]
    return sorted(work, key=lambda item: -sum(member.raw_bytes for member in item[1]))


def _check(
    stored: Mapping[str, StoredObject],
    downloader: Downloader,
    decoder: Decoder,
    objects: Sequence[str],
    members: Sequence[Member],
    packed: bool,
) -> list[_MemberDigest]:
    digests = [_MemberDigest(member) for member in members]
    try:
        stream = downloader.stream([stored[key] for key in objects])
        decode = _unpack if packed else _pass_on
        decode(digests, lambda write: decoder.decode(stream, write))
    except IntegrityError as error:
        what = f"the pack {objects[0]}" if packed else described(members[0])
        for digest in digests:
            # In a pack, the members before the damage have proved right.
            digest.problem = digest.problem and f"{what} {error}"
    return digests


def _unpack(digests: list[_MemberDigest], decode: Callable[[Callable[[bytes], object]], None]) -> None:
    by_name = {digest.member.name: digest for digest in digests}

    def open_member(name: str, size: int) -> _MemberDigest:
        if name not in by_name:
            raise IntegrityError(f"holds {name!r}, which the manifest does not name")
        return by_name[name]

    reader = PackReader(open_member)
    decode(reader.write)
    reader.finish()


def _pass_on(digests: list[_MemberDigest], decode: Callable[[Callable[[bytes], object]], None]) -> None:
    (digest,) = digests
    decode(digest.write)
    digest.close()


def _difference(member: Member, content: MemberDigest) -> str | None:
    """Return what is wrong with a member; None if it is what was backed up."""
    if (content.raw_bytes, content.sha256) != (member.raw_bytes, member.sha256):
        return (
            f"has {content.raw_bytes} bytes with SHA-256 {content.sha256}, but {member.raw_bytes} with "
            f"{member.sha256} were backed up"
        )
    table = member.table
    if table is not None and (content.copy_rows, content.copy_sha256) != (table.rows, table.content_sha256):
        return (
            f"has {content.copy_rows} rows with SHA-256 {content.copy_sha256}, but the manifest says {table.rows} "
            f"with {table.content_sha256}"
        )
    return None


def _note(digests: Sequence[_MemberDigest], findings: Findings) -> None:
    for digest in digests:
        if digest.problem is not None:
            findings.differences.append(
                Difference(kind="object", name=digest.member.objects[0], detail=digest.problem)
            )
        if digest.member.table is not None:
            findings.tables.append(
                TableResult(
                    schema=digest.member.table.schema_name,
                    name=digest.member.table.name,
                    rows_expected=digest.member.table.rows,
                    rows_found=digest.rows,
                    matches=digest.problem is None,
                )
            )


def _check_contents(archive: ArchiveFolder, findings: Findings) -> None:
    """Compare the archive's table of contents with the manifest."""
    archive.fetch([TOC])
    toc = read_toc(archive.folder / TOC)
    check_files(toc)
    expected = {name: (t.schema, t.name, t.columns) for name, t in tables_of_members(toc).items()}
    found = {
        member.name: (member.table.schema_name, member.table.name, member.table.columns)
        for member in archive.manifest.members
        if member.table is not None
    }
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            detail = "the table of contents names it as a table's data, and the manifest does not"
        elif name not in expected:
            detail = "the manifest names it as a table's data, and the table of contents does not"
        elif expected[name] != found[name]:
            detail = (
                f"the manifest says that it is of {_shown(*found[name])}, and the table of contents that it is of "
                f"{_shown(*expected[name])}"
            )
        else:
            continue
        findings.differences.append(Difference(kind="object", name=name, detail=detail))


def _shown(schema: str, name: str, columns: Sequence[str]) -> str:
    return f"{schema}.{name} ({', '.join(columns)})"
