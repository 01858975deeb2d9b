"""One of the core's verbs in a process of its own, like an Airflow task, without the seconds that Airflow takes.

``python -m testkit.task_process`` reads its work, as JSON, from the first line of its input. It prints ``ready``,
waits until its input ends, works, and prints the outcome, as JSON again. It reacts to SIGTERM like Airflow's task
runner. If it does not finish in the given time, it prints the stacks of its threads and exits.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from airflow_pg_s3.core.backup.backup import back_up
from airflow_pg_s3.core.backup.request import BackupRequest
from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.repository.catalog import Selection, select
from airflow_pg_s3.core.repository.repository import Repository
from airflow_pg_s3.core.restore.request import RestoreRequest
from airflow_pg_s3.core.restore.restore import restore
from airflow_pg_s3.core.retention.policy import RetentionPolicy
from airflow_pg_s3.core.retention.prune import PruneRequest, prune
from airflow_pg_s3.core.verify.request import VerifyRequest
from airflow_pg_s3.core.verify.verify import verify
from testkit.s3 import REGION, S3Server

CANCEL = threading.Event()
LOG = logging.getLogger("task")


def _back_up(client: Any, given: dict[str, Any]) -> str:
    repository = Repository(client, given["repository"])
    return back_up(BackupRequest(**given["arguments"]), repository, cancel=CANCEL, log=LOG).uri


def _restore(client: Any, given: dict[str, Any]) -> str:
    restore(RestoreRequest(**given["arguments"]), client, cancel=CANCEL, log=LOG)
    return "restored"


def _verify(client: Any, given: dict[str, Any]) -> str:
    done = verify(VerifyRequest(**given["arguments"]), client, cancel=CANCEL, log=LOG)
    return done.verification.outcome


def _list(client: Any, given: dict[str, Any]) -> str:
    repository = Repository(client, given["repository"])
    return f"{len(select(repository, Selection(**given['arguments']), LOG))} backups"


def _prune(client: Any, given: dict[str, Any]) -> str:
    request = PruneRequest(retention=RetentionPolicy(**given["arguments"].pop("retention")), **given["arguments"])
    repository = Repository(client, given["repository"])
    decisions = [one for done in prune(request, repository, cancel=CANCEL, log=LOG) for one in done.decisions]
    return f"{len(decisions)} backups"


VERBS: dict[str, Callable[[Any, dict[str, Any]], str]] = {
    "backup": _back_up,
    "restore": _restore,
    "verification": _verify,
    "listing": _list,
    "prune": _prune,
}


def told(
    verb: str,
    arguments: Mapping[str, Any],
    server: S3Server,
    *,
    repository: str | None = None,
    open_files: int | None = None,
    patience_seconds: float | None = None,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Return the first line of the process's standard input.

    :param arguments: arguments of the verb's request; connections as arguments of `parameters`.
    :param open_files: number of files that it may open besides those that are open at the start.
    :param patience_seconds: time after which it is considered to hang.
    :param config: botocore settings to use instead of the server's.
    """
    return json.dumps(
        {
            "verb": verb,
            "arguments": dict(arguments),
            "repository": repository,
            "open_files": open_files,
            "patience_seconds": patience_seconds,
            "s3": {
                "endpoint_url": server.endpoint_url,
                "region_name": REGION,
                "aws_access_key_id": server.access_key,
                "aws_secret_access_key": server.secret_key,
                "config": dict(config or server.config_kwargs),
            },
        }
    )


def main() -> None:
    given = json.loads(sys.stdin.readline())
    for name in ("source", "target", "server"):
        if name in given["arguments"]:
            given["arguments"][name] = parameters(**given["arguments"][name])
    config = Config(**given["s3"].pop("config"))
    client = boto3.client("s3", **given["s3"], config=config)
    signal.signal(signal.SIGTERM, lambda *_: CANCEL.set())
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if given["open_files"] is not None:
        is_open = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        limit = is_open + given["open_files"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    print("ready", flush=True)
    sys.stdin.read()
    began = time.process_time()
    if given["patience_seconds"] is not None:
        faulthandler.dump_traceback_later(given["patience_seconds"], file=sys.stdout, exit=True)
    try:
        end, text = "success", VERBS[given["verb"]](client, given)
    except PgS3Error as error:
        end, text = "clear failure", f"{type(error).__name__}: {error}"
    except Exception as error:
        end, text = "crash", f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
    facts = {"peak_kib": _peak_kib(), "own_cpu_seconds": time.process_time() - began}
    print(json.dumps({"end": end, "text": text} | facts))
    sys.exit(0 if end == "success" else 1)


def _peak_kib() -> int:
    """Return the peak memory in KiB. getrusage's value would include the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main()
