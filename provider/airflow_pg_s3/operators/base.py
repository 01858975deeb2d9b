"""The base class of the operators."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, BaseOperator

from airflow_pg_s3 import arguments
from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.operators.output import Output
from airflow_pg_s3.task_errors import final_error
from airflow_pg_s3.telemetry.lineage import Movement, lineage

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_pg_s3.hooks.pg_s3 import PgS3Hook


class PgS3Operator(BaseOperator):
    """An operator that calls the hook, and can be stopped.

    :param aws_conn_id: as of the hook.
    :param s3_extra_args: as of the hook.
    """

    # Airflow copies tasks, and an event cannot be copied.
    shallow_copy_attrs: Sequence[str] = ("_cancel",)
    _movement: Movement | None = None
    console_url = page_url = ""

    def __init__(
        self, *, aws_conn_id: str | None, s3_extra_args: Mapping[str, Any] | str | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.s3_extra_args = arguments.without_secrets(s3_extra_args)
        self._s3_secrets = arguments.secrets_of(s3_extra_args)
        self._cancel = threading.Event()

    @property
    def output(self) -> Output:
        """Reference to what the task returns, and to its items."""
        return Output(operator=self)

    def on_kill(self) -> None:
        """Make `execute` undo its work and fail. Airflow gives it five seconds for that."""
        self._cancel.set()

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render a template, as every operator; an URI that ends in ``.sql`` is not the name of a file."""
        if isinstance(content, str) and content.startswith("s3://"):
            content += "{##}"  # a comment, of which nothing is left
        return super().render_template(content, context, jinja_env, seen_oids)

    def resolve_template_files(self) -> None:
        """Read files of SQL, as every operator; the URI of an archive may end in ``.sql`` as well."""
        self.template_fields = [name for name in type(self).template_fields if name != "backup"]
        try:
            super().resolve_template_files()
        finally:
            del self.template_fields

    def _hook(self, context: Mapping[str, Any], repository: str | None) -> PgS3Hook:
        # With all of core, which Airflow need not import to parse a DAG.
        from airflow_pg_s3.hooks.pg_s3 import PgS3Hook

        extra_args = self._with_secrets(context, self.s3_extra_args, self._s3_secrets)
        return PgS3Hook(repository, self.aws_conn_id, s3_extra_args=extra_args, cancel=self._cancel, log=self.log)

    def _with_secrets(self, context: Mapping[str, Any], extra_args: Any, secrets: Mapping[str, Any]) -> Any:
        """Put back what Airflow must not show as an argument."""
        return {**extra_args, **self.render_template(secrets, context)} if secrets else extra_args

    def _repository_of_latest(self, backup: str | None, repository: str | None) -> str | None:
        """Return the repository whose latest backup is meant; None if a backup is given.

        :raises AirflowFailException: both are given, or neither.
        """
        given = [one for one in (backup, repository) if one]
        if len(given) != 1:
            problem = "backup and repository are both given" if given else "neither backup nor repository is given"
            raise final_error(
                InputError(f"{problem}: give the URI of one backup, or the repository whose latest one is meant"),
                self.log,
            )
        return repository or None

    def _given(self, names: Iterable[str]) -> Any:
        """Return the operator's arguments of these names."""
        return {name: getattr(self, name) for name in names}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the datasets that the task has read and written; called by OpenLineage where it is installed."""
        return lineage(self._movement)

    def _report(self, context: Mapping[str, Any], facts: dict[str, Any], hook: PgS3Hook) -> dict[str, Any]:
        """Put the facts into the asset events of the operator's outlets; return them for XCom.

        :param hook: which has done the work, and knows what was moved.
        """
        self.console_url, self.page_url = hook.console_url, hook.page_url
        self._movement = hook.movement
        events = context.get("outlet_events")
        if events is not None:
            for outlet in self.outlets:
                if isinstance(outlet, Asset):
                    events[outlet].extra = facts
        return facts
