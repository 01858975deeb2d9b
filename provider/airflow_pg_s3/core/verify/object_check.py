"""The check of what lies on S3: every object read, decoded and compared with the manifest, without PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from airflow_pg_s3.core.errors import Cancelled, IntegrityError, PgS3Error
from airflow_pg_s3.core.postgres.archive.table_data import tables_of_members
from airflow_pg_s3.core.postgres.archive.toc import TOC, LargeObjectNames, check_files, read_toc
from airflow_pg_s3.core.reporting import Log, byte_progress
from airflow_pg_s3.core.repository.chunk_reader import open_chunk
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.digest import COPY_TERMINATOR, MemberDigest, MemberHasher
from airflow_pg_s3.core.repository.listing import Listing
from airflow_pg_s3.core.repository.member_verifier import described
from airflow_pg_s3.core.repository.members import Chunk, Chunks, Extent, Member, packs_of
from airflow_pg_s3.core.repository.pack import PackReader
from airflow_pg_s3.core.repository.repository import StoredManifest, read_manifest, read_members
from airflow_pg_s3.core.repository.verification_record import Difference, TableResult
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.s3.download import RANGE_BYTES, Downloader, StoredRange
from airflow_pg_s3.core.s3.requests import StoredObject, parse_uri
from airflow_pg_s3.core.verify.findings import Findings
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.workspace.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_POLL_SECONDS = 0.5
_BEGUN_AT_ONCE = 32
_Place: TypeAlias = tuple[str, int, bytes]  # of a chunk: key of its run, where it begins there; its digest


class _MemberDigest:
    """Takes a member's bytes and says in the end whether they are those that were backed up."""

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
        # Whatever a damaged stream would still unpack to.
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
    """Read every object of a backup, and record what differs from what was stored.

    :raises InputError: the backup is encrypted and no usable identity is given.
    :raises StorageError: S3 failed.
    :raises Cancelled: told to stop.
    """
    bucket, _ = parse_uri(request.backup, parameter="backup")
    decoder = Decoder(stored.manifest.encryption, request.identities)
    stop = threading.Event()
    with (
        Workspace(request.spool_dir) as workspace,
        Downloader(client, bucket, cancel=stop, threads=request.jobs + 2) as downloader,
        # More than are downloaded at once, so that what has come is checked meanwhile.
        ThreadPoolExecutor(request.jobs + 2, thread_name_prefix="check") as pool,
    ):
        archive = ArchiveFolder(stored.manifest, stored.base, downloader, decoder, workspace)
        check = _ObjectCheck(archive, stored, downloader, decoder)
        total = stored.manifest.stored_bytes + stored.manifest.members.stored_bytes
        progress = byte_progress(log, "read", lambda: downloader.read_bytes, total)
        try:
            for _ in _at_once(pool, check.work()):
                if cancel.is_set():
                    raise Cancelled("stopped while the objects were read")
                progress.tick()
        except BaseException:
            stop.set()
            raise
        progress.end()
        check.note(findings)
        if check.rotten:
            _name_others(client, bucket, stored, check.rotten, findings)
        if not findings.differences:
            _check_contents(archive, findings)


def _at_once(pool: ThreadPoolExecutor, work: Iterator[Callable[[], None]]) -> Iterator[None]:
    """Do all the work, and come back now and then meanwhile."""
    pending: set[Future[None]] = set()
    try:
        while True:
            pending |= {pool.submit(one) for one in islice(work, _BEGUN_AT_ONCE - len(pending))}
            if not pending:
                return
            done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                future.result()
            yield
    finally:
        for future in pending:
            future.cancel()


class _ObjectCheck:
    """Reads packs, and each distinct chunk once."""

    def __init__(
        self, archive: ArchiveFolder, stored: StoredManifest, downloader: Downloader, decoder: Decoder
    ) -> None:
        self.rotten: dict[_Place, str] = {}
        """What is wrong with chunks, by where they lie."""
        self._members = archive.members
        self._stored = stored
        self._downloader = downloader
        self._decoder = decoder
        self._packed: dict[str, _MemberDigest] = {}
        self._newlines: dict[_Place, int] = {}
        self._lock = threading.Lock()

    def work(self) -> Iterator[Callable[[], None]]:
        """Yield what is to be done, each of it by any thread."""
        sizes = {record.key: record.stored_bytes for record in self._stored.manifest.packs}
        for pack, members in packs_of(self._members.values()).items():
            self._packed |= {member.name: _MemberDigest(member) for member in members}
            pack_object = StoredObject(key=self._stored.base + pack, stored_bytes=sizes[pack])
            yield partial(self._check_pack, pack, pack_object, [self._packed[m.name] for m in members])
        seen: set[_Place] = set()
        for member in self._members.values():
            first_seen = Chunks()
            for chunk in member.chunks:
                if _place(chunk) not in seen:
                    seen.add(_place(chunk))
                    first_seen.append(chunk)
            for extent in first_seen.extents(RANGE_BYTES):
                yield partial(self._check_extent, extent)

    def note(self, findings: Findings) -> None:
        """Say what was found, member by member."""
        for member in self._members.values():
            if member.pack is not None:
                digest = self._packed[member.name]
                _note(member, member.pack, digest.problem, digest.rows, findings)
            else:
                self._note_chunks(member, findings)

    def _note_chunks(self, member: Member, findings: Findings) -> None:
        places = list(map(_place, member.chunks))
        rows = sum(self._newlines.get(place, 0) for place in places) - COPY_TERMINATOR.count(b"\n")
        key, problem = places[0][0], None
        if rotten := next((place for place in places if place in self.rotten), None):
            key, problem = rotten[0], f"{described(member)} {self.rotten[rotten]}"
        elif member.table is not None and rows != member.table.rows:
            problem = f"{described(member)} has {rows} rows, but {member.table.rows} are recorded"
        _note(member, key, problem, None if rotten else rows, findings)

    def _check_pack(self, pack: str, stored: StoredObject, digests: list[_MemberDigest]) -> None:
        try:
            _unpack(digests, lambda write: self._decoder.decode(self._downloader.stream([stored]), write))
        except IntegrityError as error:
            for digest in digests:
                # Those that came before the damage are known to be right.
                digest.problem = digest.problem and f"the pack {pack} {error}"

    def _check_extent(self, extent: Extent) -> None:
        begin, end = extent.offset, extent.offset + extent.stored_bytes
        wanted = StoredRange(self._stored.base + extent.key, begin, end)
        try:
            ((_, stored),) = self._downloader.ranges([(wanted, None)])
        except IntegrityError as error:
            with self._lock:
                self.rotten |= {_place(chunk): f"is damaged: {error}" for chunk in extent.chunks}
            return
        for chunk in extent.chunks:
            at = chunk.offset - begin
            try:
                raw = open_chunk(chunk, stored[at : at + chunk.stored_bytes], self._decoder)
            except IntegrityError as error:
                with self._lock:
                    self.rotten[_place(chunk)] = str(error)
            else:
                with self._lock:
                    self._newlines[_place(chunk)] = raw.count(b"\n")


def _place(chunk: Chunk) -> _Place:
    return chunk.key, chunk.offset, chunk.sha256


def _name_others(
    client: S3Client, bucket: str, stored: StoredManifest, rotten: Collection[_Place], findings: Findings
) -> None:
    """Name the other backups that consist of chunks that are rotten."""
    found: set[str] = set()
    runs = {key for key, *_ in rotten}
    database = stored.manifest.database
    for ref in Listing(client, bucket=bucket, base=stored.base, database=database).complete():
        try:
            other = read_manifest(client, ref.uri)
            if other.sha256 == stored.sha256 or not any(map(other.manifest.refers_to_run, runs)):
                continue
            members = read_members(client, bucket, other)
            if any(_place(chunk) in rotten for member in members for chunk in member.chunks):
                found.add(other.manifest.backup_id)
        except PgS3Error as error:
            findings.warnings.append(f"whether {ref.uri} refers to what is damaged is not known: {error}")
    for backup_id in sorted(found):
        findings.differences.append(
            Difference(kind="backup", name=backup_id, detail="it refers to chunks that are damaged")
        )


def _unpack(digests: list[_MemberDigest], decode: Callable[[Callable[[bytes], object]], None]) -> None:
    by_name = {digest.member.name: digest for digest in digests}

    def open_member(name: str, size: int) -> _MemberDigest:
        if name not in by_name:
            raise IntegrityError(f"holds {name!r}, which the manifest does not name")
        return by_name[name]

    reader = PackReader(open_member)
    decode(reader.write)
    reader.finish()


def _difference(member: Member, content: MemberDigest) -> str | None:
    """What is wrong with a member; None if it is what was backed up."""
    if (content.raw_bytes, content.sha256) != (member.raw_bytes, member.sha256):
        return (
            f"has {content.raw_bytes} bytes with SHA-256 {content.sha256}, but {member.raw_bytes} with "
            f"{member.sha256} were backed up"
        )
    table = member.table
    if table is not None and content.copy_rows != table.rows:
        return f"has {content.copy_rows} rows, but {table.rows} are recorded"
    return None


def _note(member: Member, key: str, problem: str | None, rows: int | None, findings: Findings) -> None:
    if problem is not None:
        findings.differences.append(Difference(kind="object", name=key, detail=problem))
    if member.table is not None:
        findings.tables.append(
            TableResult(
                schema=member.table.schema_name,
                name=member.table.name,
                rows_expected=member.table.rows,
                rows_found=rows,
                matches=problem is None,
            )
        )


def _check_contents(archive: ArchiveFolder, findings: Findings) -> None:
    """Compare the archive's own table of contents with the manifest."""
    archive.fetch([TOC])
    toc = read_toc(archive.folder / TOC)
    check_files(toc)
    expected = {name: (t.schema, t.name, t.columns) for name, t in tables_of_members(toc).items()}
    found = {
        member.name: (member.table.schema_name, member.table.name, member.table.columns)
        for member in archive.members.values()
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
