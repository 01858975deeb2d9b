"""Lists the backups of one database, also the newest first, although S3 lists keys in ascending order only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from airflow_pg_s3.core.repository.backup_id import beginning_at, time_of, time_of_beginning
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3 import requests as s3_requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


MANIFEST_SUFFIX = ".json"
EVIDENCE_SUFFIX = ".verified.json"
_KEYS_A_PAGE = 1000  # S3 gives no more
_SECOND = timedelta(seconds=1)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC, microsecond=0)


@dataclass(frozen=True, kw_only=True, order=True)
class BackupRef:
    """A complete backup, or another tool's archive, as a listing shows it. Sorts by time.

    :param created_at: when the dump began; for another tool's archive, when S3 got it.
    :param database: None for another tool's archive.
    :param object_bytes: size of the object listed: the manifest, or the archive.
    :param has_evidence: whether verifications of it are recorded, whatever they have found.
    """

    created_at: datetime
    key: str
    bucket: str
    database: str | None
    backup_id: str | None
    object_bytes: int
    has_evidence: bool

    @property
    def uri(self) -> str:
        """URI of the manifest or archive."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, kw_only=True)
class _Page:
    """What one request has told of a span of time.

    :param refs: in ascending order, from the first `resume` on not all of them.
    :param resume: the second from which on there may be more in the span; None if there is none.
    """

    refs: list[BackupRef]
    resume: datetime | None


class Listing:
    """The backups of one database, by the keys of their manifests.

    :param base: prefix of these keys.
    """

    def __init__(self, client: S3Client, *, bucket: str, base: str, database: str) -> None:
        self._client = client
        self._bucket = bucket
        self._base = base
        self._database = database
        # Once it is known that the store does not begin where it is asked to.
        self._everything: list[BackupRef] | None = None

    def complete(self) -> list[BackupRef]:
        """List all of them, newest first."""
        return self._all(_EARLIEST, _LATEST)[::-1]

    def newest_first(self, before: datetime | None = None) -> Iterator[BackupRef]:
        """Yield them newest first, listing only as far back as is asked for.

        Of 100,000 backups, the newest takes two or three requests, where the complete list takes 200.

        :param before: only those whose id is of this time or older; ids have whole seconds.
        """
        until = _LATEST if before is None else before.astimezone(UTC).replace(microsecond=0) + _SECOND
        yield from self._descending(_EARLIEST, min(until, _LATEST))

    def beginning_with(self, text: str) -> list[BackupRef]:
        """List those whose ids begin with a text, newest first."""
        with s3_errors.translate_errors(self._bucket):
            pages = s3_requests.list_pages(
                self._client, Bucket=self._bucket, Prefix=self._base + text, Delimiter="/"
            )
            objects = [entry for page in pages for entry in page.get("Contents", [])]
        return self._refs(objects, _EARLIEST, _LATEST)[::-1]

    def _descending(self, since: datetime, until: datetime) -> Iterator[BackupRef]:
        """Yield what began from `since` until just before `until`, newest first."""
        if since >= until:
            return
        page = self._page(since, until)
        if page.resume is None:
            yield from reversed(page.refs)
        elif page.resume == since:
            yield from self._descending(since + _SECOND, until)
            yield from reversed(self._all(since, since + _SECOND))
        else:
            first = page.refs[0].created_at if page.refs else since
            for newer, older in pairwise(_edges(first, page.resume, until)):
                yield from self._descending(older, newer)
            yield from (ref for ref in reversed(page.refs) if ref.created_at < page.resume)

    def _page(self, since: datetime, until: datetime) -> _Page:
        if self._everything is not None:
            refs = [ref for ref in self._everything if since <= ref.created_at < until]
            return _Page(refs=refs, resume=None)
        start = self._base + beginning_at(since)
        with s3_errors.translate_errors(self._bucket):
            answer = self._client.list_objects_v2(
                Bucket=self._bucket,
                Prefix=self._base,
                Delimiter="/",
                StartAfter=start,
                MaxKeys=_KEYS_A_PAGE,
            )
        objects: list[Any] = list(answer.get("Contents", []))
        folders = [folder["Prefix"] for folder in answer.get("CommonPrefixes", [])]
        if any(name <= start for name in [*(entry["Key"] for entry in objects), *folders]):
            # To go on would mean to get the same page for ever.
            self._everything = self._all(_EARLIEST, _LATEST)
            return self._page(since, until)
        refs = self._refs(objects, since, until)
        if not answer["IsTruncated"]:
            return _Page(refs=refs, resume=None)
        last = max([entry["Key"] for entry in objects] + folders, default=self._base)
        if last >= self._base + beginning_at(until):
            return _Page(refs=refs, resume=None)
        resume = time_of_beginning(last.removeprefix(self._base))
        if resume is None:  # a name like 2026-notes does not tell how far the page has reached
            refs = self._all(since, until)
        return _Page(refs=refs, resume=resume)

    def _all(self, since: datetime, until: datetime) -> list[BackupRef]:
        """List what began from `since` until just before `until`, in ascending order, page by page."""
        objects: list[Any] = []
        end = self._base + beginning_at(until)
        with s3_errors.translate_errors(self._bucket):
            for page in s3_requests.list_pages(
                self._client,
                Bucket=self._bucket,
                Prefix=self._base,
                Delimiter="/",
                StartAfter=self._base + beginning_at(since),
                PaginationConfig={"PageSize": _KEYS_A_PAGE},
            ):
                objects += page.get("Contents", [])
                if objects and objects[-1]["Key"] > end:
                    break
        return self._refs(objects, since, until)

    def _refs(self, objects: list[Any], since: datetime, until: datetime) -> list[BackupRef]:
        sizes = {entry["Key"]: entry["Size"] for entry in objects}
        found = []
        for key, size in sizes.items():
            backup_id = key.removeprefix(self._base).removesuffix(MANIFEST_SUFFIX)
            created_at = time_of(backup_id) if key.endswith(MANIFEST_SUFFIX) else None
            if created_at is not None and since <= created_at < until:
                found.append(
                    BackupRef(
                        created_at=created_at,
                        key=key,
                        bucket=self._bucket,
                        database=self._database,
                        backup_id=backup_id,
                        object_bytes=size,
                        has_evidence=self._base + backup_id + EVIDENCE_SUFFIX in sizes,
                    )
                )
        return sorted(found)


def _edges(first: datetime, resume: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the ends of spans to look through, from `until` back to `resume`.

    A page has reached from `first` to `resume`. If backups are made at an even pace, then the last one reaches
    about as far, so that is tried; then halves of what remains, as there may have been none for long. Ids may be
    in the future by our clock, as the source server's made them: they get a span of their own.
    """
    now = datetime.now(UTC).replace(microsecond=0) + _SECOND
    yield until
    if resume < now < until:
        yield now
    end = min(now, until) if resume < now else until
    span = max(60 * _SECOND, (resume - first) * 3 // 4)
    end = (end - span).replace(microsecond=0)  # as ids have it
    while end - resume > span:
        yield end
        end = (resume + (end - resume) / 2).replace(microsecond=0)
    yield resume
