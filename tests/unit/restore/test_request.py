"""What a restore in one transaction costs is said to whoever has asked for more jobs."""

from types import SimpleNamespace

import pytest

from airflow_pg_s3.core.restore.request import can_be_atomic


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        (1, []),
        (2, []),  # the default
        (4, ["clean works in one transaction, and so over one connection; single_transaction=False takes jobs=4"]),
    ],
)
def test_jobs_that_are_of_no_use_are_said_to_be_so(jobs, said):
    lines = []
    log = SimpleNamespace(info=lambda message, *args: lines.append(message % args))
    request = SimpleNamespace(single_transaction=True, jobs=jobs)
    assert can_be_atomic(request, {}, log, what="clean")
    assert lines == said
