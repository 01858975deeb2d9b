"""The sensor that waits until the newest backup is young enough."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)  # fmt: skip

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.errors import InputError, PgS3Error, StorageError
from airflow_pg_s3.core.repository.freshness import look
from airflow_pg_s3.hooks.repositories import open_repository
from airflow_pg_s3.task_errors import final_error, logged
from airflow_pg_s3.telemetry.metrics import measure
from airflow_pg_s3.triggers.freshness import PgS3BackupFreshnessTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_GRACE = timedelta(minutes=10)


class PgS3BackupFreshnessSensor(BaseSensorOperator):
    """Wait until the newest backup of a database is young enough; fail after `timeout`.

    For monitoring, give it a `timeout` of 0: it then checks once, and succeeds or fails.

    All arguments but `max_age` and `deferrable` are templated.

    :param repository: ``s3://bucket/any/prefix``, or a name in the option ``[pg_s3] repositories``.
    :param database: the database whose backups count.
    :param max_age: maximum age of the newest backup, counted from its start.
    :param verified_only: count only backups that were restored and compared, and have not failed a verification
        since.
    :param verified: the same, by a shorter name.
    :param aws_conn_id: AWS connection; None for the machine's own credentials; ``aws_default`` leaves the choice
        to a named repository.
    :param s3_extra_args: further arguments of S3 requests, such as those of SSE-C, ``RequestPayer`` or
        ``ExpectedBucketOwner``; each request gets those that it accepts. The connection may have them as well, see
        docs/s3-compatible.md.
    :param deferrable: wait in the triggerer instead of in a worker.
    :param kwargs: as for any sensor: ``timeout`` (default 7 days), ``poke_interval``, ``mode``, ``soft_fail``.
    :returns: ``uri``, ``key``, ``backup_id``, ``database``, ``created_at`` (ISO 8601, by the source server's
        clock), ``age_seconds`` and ``verified`` of the newest backup that counts.
    :raises AirflowSensorTimeout: no backup is young enough; the message names the newest.
    :raises AirflowFailException: the request cannot work; waiting would not help.
    """

    template_fields: Sequence[str] = ("repository", "database", "verified_only", "aws_conn_id", "s3_extra_args")
    template_fields_renderers: ClassVar[dict[str, str]] = {"s3_extra_args": "json"}
    ui_color = "#f7f4f9"

    def __init__(
        self,
        *,
        repository: str,
        database: str,
        max_age: timedelta,
        verified_only: bool | str = True,
        verified: bool | str | None = None,
        aws_conn_id: str | None = "aws_default",
        s3_extra_args: Mapping[str, Any] | str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.repository = repository
        self.database = database
        self.max_age = max_age
        self.verified_only = verified_only if verified is None else verified
        self.aws_conn_id = aws_conn_id
        self.s3_extra_args = arguments.without_secrets(s3_extra_args)
        self._s3_secrets = arguments.secrets_of(s3_extra_args)
        self.deferrable = deferrable
        self._found = ""

    def poke(self, context: Context) -> PokeReturnValue:
        """Check once."""
        try:
            if not isinstance(self.max_age, timedelta) or self.max_age <= timedelta(0):
                raise InputError(f"max_age must be a timedelta above zero, not {self.max_age!r}")
            arguments.as_database(self.database)
            repository, _ = open_repository(self.repository, self.aws_conn_id, self._s3_extra_args(context))
            found = look(
                repository,
                database=self.database,
                max_age=self.max_age,
                verified_only=arguments.as_bool(self.verified_only, "verified_only"),
                log=self.log,
            )
        except PgS3Error as error:
            raise final_error(error, self.log) from None
        self._found = found.message
        self._measure(found.facts)
        if found.is_fresh or self.timeout:  # otherwise it is the error that comes next
            self.log.info("%s", found.message)
        return PokeReturnValue(is_done=found.is_fresh, xcom_value=found.facts)

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Check, and wait until the newest backup is young enough."""
        try:
            facts: dict[str, Any] | None = (
                self._poke_then_defer(context) if self.deferrable else super().execute(context)
            )
        except AirflowSkipException as error:
            raise AirflowSkipException(self._with_found(error)) from error
        except AirflowSensorTimeout as error:
            raise logged(AirflowSensorTimeout(self._with_found(error)), self.log) from None
        return facts

    def _measure(self, facts: Mapping[str, Any] | None) -> None:
        if facts is not None:
            is_verified = arguments.as_bool(self.verified_only, "verified_only")
            measure("newest_verified" if is_verified else "newest", facts)

    def _with_found(self, error: Exception) -> str:
        return ": ".join(filter(None, (self._found, str(error))))

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return or raise the trigger's result; `resume_execution` applies `soft_fail`."""
        message = str(event["message"])
        self._measure(event["facts"])
        match event["status"]:
            case "fresh":
                self.log.info("%s", message)
                facts: dict[str, Any] = event["facts"]
                return facts
            case _ if self.never_fail:  # Airflow 3.0 does not apply it to deferred sensors
                raise AirflowSkipException(message)
            case "late":
                raise self._logged(AirflowSensorTimeout(message))
            case "refused":
                raise self._logged(AirflowFailException(message))
            case _:
                raise self._logged(StorageError(message))

    def _logged(self, error: Exception) -> Exception:
        """Log an error, unless Airflow will skip the task instead; return it."""
        return error if self.soft_fail or self.never_fail else logged(error, self.log)

    def _s3_extra_args(self, context: Context) -> dict[str, Any]:
        extra_args = arguments.as_mapping(self.s3_extra_args, "s3_extra_args")
        secrets: dict[str, Any] = self.render_template(self._s3_secrets, context)
        return extra_args | secrets

    def _poke_then_defer(self, context: Context) -> dict[str, Any] | None:
        deadline = datetime.now(UTC) + timedelta(seconds=self.timeout)
        found = self._poke_once(context, is_last=self.timeout == 0)
        if found is not None and found.is_done:
            facts: dict[str, Any] | None = found.xcom_value
            return facts
        self.defer(
            trigger=PgS3BackupFreshnessTrigger(
                repository=self.repository,
                database=self.database,
                max_age_seconds=self.max_age.total_seconds(),
                verified_only=arguments.as_bool(self.verified_only, "verified_only"),
                aws_conn_id=self.aws_conn_id,
                s3_extra_args=_serializable(self._s3_extra_args(context)),
                poke_interval=self.poke_interval,
                deadline=deadline.isoformat(),
                silent_fail=self.silent_fail,
            ),
            method_name="execute_complete",
            # The trigger itself ends at the deadline, with a better message than Airflow's.
            timeout=timedelta(seconds=self.timeout) + _GRACE,
        )

    def _poke_once(self, context: Context, *, is_last: bool) -> PokeReturnValue | None:
        """Check before a deferral; `soft_fail` and the like work as in `BaseSensorOperator.execute`."""
        try:
            found = self.poke(context)
            if is_last and not found.is_done:
                raise AirflowSensorTimeout
            return found
        except AirflowException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        except PgS3Error as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            if not self.silent_fail:
                raise
            return None


def _serializable(extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments in a form that Airflow can store with a trigger: SSE-C keys in bytes become Base64."""
    return {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in extra_args.items()}
