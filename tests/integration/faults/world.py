"""A small database, backups of it, and what may be left of them."""

import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from airflow_pg_s3.core.backup.backup import BackupResult, back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters
from airflow_pg_s3.core.repository.codec import Decoder
from airflow_pg_s3.core.repository.repository import Repository, StoredManifest, read_manifest
from airflow_pg_s3.core.repository.verification_record import Evidence, read_evidence
from airflow_pg_s3.core.restore.load.archive_folder import ArchiveFolder
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.restore import restore
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import Pruned, PruneRequest, prune
from airflow_pg_s3.core.s3.download import Downloader
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.verify import VerifyResult, verify
from airflow_pg_s3.core.workspace.workspace import Workspace
from testkit.postgres import Cluster, installations
from testkit.s3 import S3Server

MIB = 1 << 20
DATABASE = "faulted"
ROWS = 180_000
# What is large is several parts; what is small travels in packs.
FILL = f"""
create table large as select i, md5(i::text) || md5((i * 7)::text) as noise from generate_series(1, {ROWS}) i;
create table small as select i from generate_series(1, 100) i;
select lo_from_bytea(4711, 'a large object');
"""
BEFORE = "create table before as select 1 as i"
LOG = logging.getLogger("faults")


class World:
    """A source database on a cluster, a bucket, and the core's verbs with a client that works unless one is given.

    :param backup: the first of the source, under the prefix ``original``.
    """

    def __init__(self, cluster: Cluster, server: S3Server, fill: str = FILL) -> None:
        self.cluster = cluster
        self.server = server
        self.client = server.client()
        self.bucket = server.create_bucket(f"faults-{uuid.uuid4().hex[:12]}")
        self.search = [str(folder) for folder in installations().values()]
        cluster.create_database(DATABASE)
        cluster.psql(fill, DATABASE)
        self.backup = self.back_up("original")

    def close(self) -> None:
        self.cluster.drop_database(DATABASE)

    # -- verbs ------------------------------------------------------------------------------------------------

    def back_up(self, prefix: str, client: Any = None, **arguments: Any) -> BackupResult:
        repository = Repository(client or self.client, f"s3://{self.bucket}/{prefix}")
        request = BackupRequest(**self.backup_arguments() | arguments)
        return back_up(request, repository, cancel=threading.Event(), log=LOG)

    def backup_arguments(self) -> dict[str, Any]:
        return {
            "source": self.params(DATABASE),
            "jobs": 1,
            "part_bytes": 5 * MIB,
            "client_path": self.search,
        }

    def replace(self, live: str, uri: str, client: Any = None, **arguments: Any) -> object:
        """Restore into a live database."""
        request = RestoreRequest(**self.replace_arguments(live, uri) | arguments)
        return restore(request, client or self.client, cancel=threading.Event(), log=LOG)

    def replace_arguments(self, live: str, uri: str) -> dict[str, Any]:
        return {
            "backup": uri,
            "target": self.params(live),
            "if_exists": "replace",
            "keep_previous": False,
            "jobs": 1,
            "client_path": self.search,
        }

    def verify(self, uri: str, client: Any = None, **arguments: Any) -> VerifyResult:
        """Verify on the same server, unless told otherwise."""
        request = VerifyRequest(**self.verify_arguments(uri) | arguments)
        return verify(request, client or self.client, cancel=threading.Event(), log=LOG)

    def verify_arguments(self, uri: str) -> dict[str, Any]:
        return {"backup": uri, "server": self.params("postgres"), "jobs": 1, "client_path": self.search}

    def prune(self, prefix: str, client: Any = None, **arguments: Any) -> list[Pruned]:
        repository = Repository(client or self.client, f"s3://{self.bucket}/{prefix}")
        request = PruneRequest(**{"retention": RetentionPolicy(keep_last=1)} | arguments)
        return list(prune(request, repository, cancel=threading.Event(), log=LOG))

    def params(self, database: str) -> ConnectionParameters:
        keywords = conninfo_to_dict(self.cluster.dsn(database))
        return parameters(database=str(keywords.pop("dbname")), keywords=keywords)

    # -- S3 ---------------------------------------------------------------------------------------------------

    def copy(self, source: str = "original") -> str:
        """The prefix of a new repository with the same objects as another."""
        prefix = uuid.uuid4().hex
        for key in self.stored(source):
            copied = {"Bucket": self.bucket, "Key": f"{source}/{key}"}
            self.client.copy_object(Bucket=self.bucket, Key=f"{prefix}/{key}", CopySource=copied)
        return prefix

    def uri(self, prefix: str) -> str:
        """Where the original backup lies in a copy of its repository."""
        return f"s3://{self.bucket}/{prefix}/{self.backup.key.partition('/')[2]}"

    def stored(self, prefix: str) -> dict[str, str]:
        """Key below the prefix → ETag; uploads that were not completed as well."""
        listing = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{prefix}/").get("Uploads", [])
        return {
            entry["Key"].removeprefix(f"{prefix}/"): entry["ETag"]
            for page in listing
            for entry in page.get("Contents", [])
        } | {entry["Key"].removeprefix(f"{prefix}/"): "an upload" for entry in uploads}

    def evidence(self, uri: str) -> Evidence | None:
        return read_evidence(self.client, self.bucket, read_manifest(self.client, uri))

    def manifests(self, prefix: str) -> Iterator[StoredManifest]:
        """Of everything that looks like a backup."""
        repository = Repository(self.client, f"s3://{self.bucket}/{prefix}")
        for ref in repository.backups(DATABASE):
            yield read_manifest(self.client, ref.uri)

    def false_completes(self, prefix: str) -> list[str]:
        """What has a manifest, and cannot be read to its last byte."""
        found = []
        for stored in self.manifests(prefix):
            try:
                self.read_all(stored)
            except PgS3Error as error:
                found.append(f"{stored.manifest.backup_id}: {error}")
        return found

    def leftovers(self, prefix: str) -> list[str]:
        """What belongs to no complete backup."""
        expected = set()
        for manifest, *_ in self.manifests(prefix):
            expected |= {f"{DATABASE}/{record.key}" for record in manifest.objects}
            # The record of who makes it may have outlived the commit; it is ignored, and goes with the backup.
            around = (".json", ".verified.json", "/begun")
            expected |= {f"{DATABASE}/{manifest.backup_id}{suffix}" for suffix in around}
        return sorted(set(self.stored(prefix)) - expected)

    def read_all(self, stored: StoredManifest) -> None:
        """Read every member of a backup, and check its digest."""
        manifest, base, _ = stored
        with (
            Workspace() as workspace,
            Downloader(self.client, self.bucket, cancel=threading.Event(), threads=2) as downloader,
        ):
            archive = ArchiveFolder(manifest, base, downloader, Decoder(manifest.encryption, ()), workspace)
            for member in manifest.members:
                archive.read(member, lambda _: None)

    # -- PostgreSQL -------------------------------------------------------------------------------------------

    def tables(self, database: str) -> list[str]:
        query = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        return sorted(self.cluster.psql(query, database).split())

    def databases_like(self, pattern: str) -> list[str]:
        query = f"select datname from pg_database where datname like '{pattern}' order by 1"
        return self.cluster.psql(query).split("\n")[:-1]
