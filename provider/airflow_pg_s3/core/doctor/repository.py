"""Looks at S3, and tries what a backup and a prune do, with an object of its own."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_pg_s3.core.doctor.findings import Findings
from airflow_pg_s3.core.documents import document
from airflow_pg_s3.core.errors import Cancelled
from airflow_pg_s3.core.reporting import human_age
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.s3 import errors as s3_errors
from airflow_pg_s3.core.s3.deletion import Deleter
from airflow_pg_s3.core.s3.requests import (
    content_md5,
    get_object,
    of_records,
    put_if_absent,
    sends_checksums,
    supported_args,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CLOCK_SECONDS = 60.0
_SKEW_SECONDS = 15 * 60.0  # from which on S3 refuses requests
_BODY = json.dumps({"made_by": "pg-s3 doctor"}).encode()
_GRANT = "grant {} on the keys below the prefix (SECURITY.md has whole policies)"
# Of a bucket without such a thing, a store that knows none, or whoever may not see it.
_NOT_KNOWN = (400, 403, 404, 405, 501)


def examine_repository(
    repository: Repository,
    database: str,
    *,
    extra_args: Mapping[str, Any],
    findings: Findings,
    cancel: threading.Event,
) -> None:
    """Look at the bucket, and try its rights and its dialect.

    :raises Cancelled: told to stop.
    """
    can_list = False
    with findings.failing("bucket"):
        repository.check_access(database)
        can_list = True
        findings.ok("bucket", f"{repository.uri(repository.base(database))} can be listed")
        _check_clock(repository, findings)
    if not can_list:
        return
    if cancel.is_set():
        raise Cancelled("the examination was stopped")
    _Trial(repository, database, extra_args, findings).run()
    with findings.failing("Object Lock"):
        _check_locks(repository.client, repository.bucket, findings)
    with findings.failing("lifecycle"):
        _check_lifecycle(repository, database, findings)


def _check_clock(repository: Repository, findings: Findings) -> None:
    answer: Any = repository.client.list_objects_v2(Bucket=repository.bucket, MaxKeys=1, Prefix="no such prefix")
    try:
        said = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return
    seconds = (said.replace(tzinfo=said.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    found = f"this machine's clock is {human_age(seconds)} {'behind' if seconds > 0 else 'ahead of'} S3's"
    advice = "set it by NTP: S3 refuses requests that are 15 minutes off"
    if abs(seconds) > _SKEW_SECONDS:
        findings.fail("clock of S3", found, advice)
    elif abs(seconds) > _CLOCK_SECONDS:
        findings.warn("clock of S3", found, advice)
    else:
        findings.ok("clock of S3", "as this machine's")


class _Trial:
    """One object, from its beginning to its end. Its name is none of a backup's, so that it is no backup."""

    def __init__(
        self, repository: Repository, database: str, extra_args: Mapping[str, Any], findings: Findings
    ) -> None:
        self._client = repository.client
        self._bucket = repository.bucket
        # Rights may end at names: those of manifests are read and written by all.
        self._key = f"{repository.base(database)}doctor-{secrets.token_hex(8)}.json"
        self._where = repository.uri(self._key)
        self._extra_args = extra_args
        self._findings = findings

    def run(self) -> None:
        findings = self._findings
        try:
            with findings.failing("write to S3", _GRANT.format("s3:PutObject")):
                put_if_absent(self._client, self._bucket, self._key, _BODY, self._extra_args)
                findings.ok("write to S3", f"stored an object{' with a CRC' * sends_checksums(self._client)}")
                self._check_conditional_write()
                with findings.failing("list S3", "grant s3:ListBucket"):
                    self._check_list()
                with findings.failing("read from S3", _GRANT.format("s3:GetObject")):
                    self._check_read()
            with findings.failing("multipart uploads", _GRANT.format("s3:PutObject and s3:AbortMultipartUpload")):
                self._check_multipart()
        finally:
            self._delete()

    def _check_conditional_write(self) -> None:
        try:
            self._client.put_object(
                **self._record_arguments(), Bucket=self._bucket, Key=self._key, Body=_BODY, IfNoneMatch="*",
                **content_md5(self._client, _BODY),
            )  # fmt: skip
        except ClientError as error:
            if s3_errors.status_of(error) == HTTPStatus.PRECONDITION_FAILED:
                self._findings.ok("conditional writes", "the store honours If-None-Match")
                return
            if s3_errors.status_of(error) != HTTPStatus.NOT_IMPLEMENTED:
                raise
        self._findings.warn(
            "conditional writes",
            "the store ignores or lacks If-None-Match",
            "backups work: keys are random; but keep two writers of one name apart (docs/s3-compatible.md)",
        )

    def _record_arguments(self) -> Any:
        return of_records(self._client, self._extra_args)

    def _check_list(self) -> None:
        answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._key)
        if [entry["Size"] for entry in answer.get("Contents", [])] == [len(_BODY)]:
            self._findings.ok("list S3", "a new object is listed at once")
        else:
            self._findings.warn(
                "list S3",
                "a new object is not listed yet",
                f"lists lag behind: see {document('reliability.md')}, its last chapter",
            )

    def _check_read(self) -> None:
        body = get_object(self._client, Bucket=self._bucket, Key=self._key)["Body"].read()
        part = get_object(self._client, Bucket=self._bucket, Key=self._key, Range="bytes=2-9")["Body"].read()
        if (body, part) == (_BODY, _BODY[2:10]):
            self._findings.ok("read from S3", "what was stored is read, also in parts")
        else:
            self._findings.fail("read from S3", "what is read is not what was stored", "use another store")

    def _check_multipart(self) -> None:
        place: Any = {"Bucket": self._bucket, "Key": self._key}
        begin: Any = supported_args(self._client, "CreateMultipartUpload", self._extra_args)
        upload: Any = place | {"UploadId": self._client.create_multipart_upload(**begin, **place)["UploadId"]}
        try:
            part: Any = supported_args(self._client, "UploadPart", self._extra_args)
            md5 = content_md5(self._client, _BODY)
            self._client.upload_part(**part, **upload, PartNumber=1, Body=_BODY, **md5)
        finally:
            self._client.abort_multipart_upload(**upload)
        with self._findings.failing("multipart uploads", "grant s3:ListBucketMultipartUploads on the bucket"):
            self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._key)
            self._findings.ok("multipart uploads", "begun, listed and aborted")

    def _delete(self) -> None:
        said = None
        try:
            refused = [one for some in Deleter(self._client, self._bucket).delete([self._key]) for one in some]
            said = refused[0].get("Message", refused[0].get("Code")) if refused else None
        except (ClientError, BotoCoreError) as error:
            said = str(error)
        if said is None:
            self._findings.ok("delete from S3", "the object is gone again")
        elif self._exists():
            self._findings.warn(
                "delete from S3",
                f"{self._where} was stored by this examination, and cannot be deleted: {said}",
                "delete it. Backups work without this right; a prune needs it, and removes what killed ones leave",
            )

    def _exists(self) -> bool:
        with suppress(ClientError, BotoCoreError):
            return bool(self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._key).get("Contents"))
        return True


def _check_locks(client: S3Client, bucket: str, findings: Findings) -> None:
    check = "Object Lock"
    configuration: Any = {}
    try:
        configuration = client.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    except ClientError as error:
        if s3_errors.status_of(error) not in _NOT_KNOWN:
            raise
        if s3_errors.is_about_rights(error):
            findings.warn(
                check,
                "these credentials may not see whether the bucket has it",
                "a prune needs s3:GetBucketObjectLockConfiguration",
            )
            return
    retention = configuration.get("Rule", {}).get("DefaultRetention")
    if configuration.get("ObjectLockEnabled") != "Enabled":
        findings.ok(check, "off")
    elif retention is None:
        findings.ok(check, "on, without a default retention: backups are locked only if s3_extra_args says so")
    else:
        span = " ".join(f"{retention[unit]} {unit.lower()}" for unit in ("Days", "Years") if unit in retention)
        findings.ok(check, f"on: every object is kept for {span} ({retention['Mode']}), which a prune respects")


def _check_lifecycle(repository: Repository, database: str, findings: Findings) -> None:
    """Look for rules that delete what backups consist of."""
    rules: Any = []
    try:
        rules = repository.client.get_bucket_lifecycle_configuration(Bucket=repository.bucket)["Rules"]
    except ClientError as error:
        if s3_errors.status_of(error) not in _NOT_KNOWN:
            raise
    base = repository.base(database)
    for rule in rules:
        prefix = _prefix_of(rule)
        touches = base.startswith(prefix) or prefix.startswith(base)
        if rule["Status"] == "Enabled" and {"Days", "Date"} & rule.get("Expiration", {}).keys() and touches:
            findings.warn(
                "lifecycle",
                f"the bucket's rule {rule.get('ID', prefix)!r} deletes objects of backups after a time",
                "let pg-s3 prune delete backups: a rule leaves manifests whose objects are gone",
            )


def _prefix_of(rule: Any) -> str:
    where = rule.get("Filter", {})
    return str(where.get("And", where).get("Prefix") or rule.get("Prefix") or "")
