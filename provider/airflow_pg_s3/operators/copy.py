"""The operator that copies a backup into another repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_pg_s3 import arguments
from airflow_pg_s3.operators.base import PgS3Operator
from airflow_pg_s3.telemetry.links import BACKUP_LINKS


class PgS3CopyOperator(PgS3Operator):
    """Copy a backup into a second repository: another bucket, region, account or store.

    It brings what the other side lacks, and the manifest last: a copy is complete, or not there. One that is there
    already is left as it is. docs/second-copies.md has more.

    All arguments are templated.

    :param backup: URI of the backup's manifest, as `PgS3BackupOperator` and `PgS3ListBackupsOperator` return it,
        or ``s3://bucket/prefix/<database>/<name>`` with a name as for `PgS3RestoreOperator`; give either this, or
        `repository` and `database`.
    :param repository: copy the latest backup in this one: ``s3://bucket/any/prefix``, or a name in the option
        ``[pg_s3] repositories``.
    :param database: with `repository`: the database that was backed up.
    :param verified_only: with `repository`: take the latest backup that is verified.
    :param to_repository: where the copy goes: ``s3://bucket/any/prefix``, or a name in the option
        ``[pg_s3] repositories``.
    :param aws_conn_id: AWS connection that reads the backup; None for the machine's own credentials.
    :param to_aws_conn_id: AWS connection that stores the copy; ``aws_default`` leaves the choice to a named
        repository.
    :param s3_extra_args: further arguments of S3 requests that read the backup.
    :param to_s3_extra_args: further arguments of those that store the copy, such as ``{"StorageClass": …}``.
    :returns: ``uri`` of the copy, ``source`` (URI of the backup), ``backup_id``, ``database``, ``created_at``,
        ``stored_bytes``, ``copied_objects`` and ``copied_bytes`` (what the other side lacked),
        ``duration_seconds``; the same dict is the extra of the asset events of its outlets.
    :raises AirflowFailException: the request cannot work, or the backup is damaged; a retry would not help.
    """

    template_fields: Sequence[str] = (
        "backup",
        "repository",
        "database",
        "verified_only",
        "to_repository",
        "aws_conn_id",
        "to_aws_conn_id",
        "s3_extra_args",
        "to_s3_extra_args",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"s3_extra_args": "json", "to_s3_extra_args": "json"}
    ui_color = "#ece7f2"
    operator_extra_links = BACKUP_LINKS

    def __init__(
        self,
        *,
        to_repository: str,
        backup: str | None = None,
        repository: str | None = None,
        database: str | None = None,
        verified_only: bool | str = False,
        aws_conn_id: str | None = "aws_default",
        to_aws_conn_id: str | None = "aws_default",
        s3_extra_args: Mapping[str, Any] | str | None = None,
        to_s3_extra_args: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(aws_conn_id=aws_conn_id, s3_extra_args=s3_extra_args, **kwargs)
        self.to_repository = to_repository
        self.backup = backup
        self.repository = repository
        self.database = database
        self.verified_only = verified_only
        self.to_aws_conn_id = to_aws_conn_id
        self.to_s3_extra_args = arguments.without_secrets(to_s3_extra_args)
        self._to_s3_secrets = arguments.secrets_of(to_s3_extra_args)

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Copy, and return the facts about the copy."""
        hook = self._hook(context, self._repository_of_latest(self.backup, self.repository))
        facts = hook.copy(
            self.backup or None,
            self.to_repository,
            to_aws_conn_id=self.to_aws_conn_id,
            to_s3_extra_args=self._with_secrets(context, self.to_s3_extra_args, self._to_s3_secrets),
            database=self.database,
            verified_only=self.verified_only,
        )
        return self._report(context, facts, hook)
