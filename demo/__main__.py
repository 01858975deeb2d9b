"""`make demo`: back up, verify and restore a realistic database, through Airflow, on this machine alone.

PostgreSQL and the S3 server come with pip, run on free ports of 127.0.0.1, and are gone at the end. What stays is
in `.demo/`: Airflow's home with the full log of every run, and a copy of all that was stored on S3.

`make demo-ui`: the same, and then Airflow with the Backups page, until Ctrl-C.
"""

import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo.airflow_runs import Airflow, RunFailed
from demo.report import Report
from testkit.airflow_standalone import Standalone, wait_until
from testkit.database_equality import compare_databases
from testkit.postgres import Cluster, installations
from testkit.s3 import Moto, S3Server
from testkit.unprivileged_user import reachable, server_user

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".demo"
SCALE = 8  # 1 is about 25 MB of database
BUCKET, REPOSITORY = "demo", "s3://demo/backups"
SOURCE, TARGET, ONE_TABLE = "shop", "shop_restored", "shop_products"
CHECK = "select count(*) > 0 from shop.orders"
SECONDS_BETWEEN_LINES = 2.0


def main(*, keep_open: bool = False) -> int:
    """Run the demo; 0 when both databases are equal.

    :param keep_open: afterwards show the Backups page, until Ctrl-C.
    """
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "servers").mkdir(parents=True)
    major = max(installations())
    say(f"Starting PostgreSQL {major} and an S3 server (moto)")
    with Cluster(major=major, base_dir=HOME / "servers") as postgres, Moto(base_dir=HOME / "servers") as s3:
        settings = settings_of(postgres, s3)
        report = demonstrate(postgres, s3, settings)
        print(report.text(), flush=True)
        if keep_open:
            show_page(settings)
        else:
            say("All of this, as the Backups page in Airflow shows it: make demo-ui")
    shutil.rmtree(HOME / "servers")
    return 0 if not report.differences else 1


def settings_of(postgres: Cluster, s3: S3Server) -> dict[str, str]:
    """Airflow's settings, as environment variables."""
    return {
        "AIRFLOW__PG_S3__CLIENT_PATH": str(postgres.pg_bin),
        "AIRFLOW__PG_S3__REPOSITORIES": json.dumps([{"name": "demo", "uri": REPOSITORY, "max_age": "26h"}]),
        "AIRFLOW_CONN_POSTGRES_DEFAULT": postgres.airflow_connection(SOURCE),
        "AIRFLOW_CONN_POSTGRES_TARGET": postgres.airflow_connection(TARGET),
        "AIRFLOW_CONN_AWS_DEFAULT": s3.airflow_connection(),
        "PG_S3_REPOSITORY": REPOSITORY,
        "PG_S3_TARGET_CONN_ID": "postgres_target",
    }


def show_page(settings: Mapping[str, str]) -> None:
    """Run Airflow with the Backups page, until Ctrl-C."""
    say("Starting Airflow with the Backups page (its home is .demo/ui)")
    home = HOME / "ui"
    home.mkdir()
    airflow = Standalone(home, settings)
    try:
        wait_until(airflow.is_up, "Airflow is up", seconds=300)
        say(f"The Backups page: {airflow.url}/plugin/pg-s3-backups\nCtrl-C ends everything.")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
    finally:
        airflow.stop()


def demonstrate(postgres: Cluster, s3: S3Server, settings: Mapping[str, str]) -> Report:
    """Take the user's way: a nightly backup, the proof that it restores, the restore, and one table on demand."""
    began = time.monotonic()
    fill(postgres)
    s3.create_bucket(BUCKET)
    postgres.create_database(TARGET)

    say("Preparing Airflow (its home is .demo/airflow)")
    airflow = Airflow(
        home=HOME / "airflow",
        dags=ROOT / "dags",
        settings=settings,
    )
    backup = run(airflow, "pg_s3_backup")["backup"]
    # It starts a PostgreSQL of its own; as root it does so as another user, who must reach the programs.
    own_server = reachable(postgres.pg_bin, user=server_user())
    where = {} if own_server else {"verify_conn_id": "postgres_default"}
    verification = run(airflow, "pg_s3_restore_verification", checks=[CHECK], **where)["verify"]
    restore = run(airflow, "pg_s3_restore")["restore"]
    one_table = run(
        airflow, "pg_s3_on_demand", mode="restore", target_database=ONE_TABLE, tables=["shop.products"]
    )["restore"]

    say(f"Comparing {SOURCE} and {TARGET}: schema, every row, sequences, large objects")
    compared = time.monotonic()
    differences = compare_databases(postgres.dsn(SOURCE), postgres.dsn(TARGET))
    compare_seconds = time.monotonic() - compared

    objects = copy_bucket(s3, HOME / "s3")
    return Report(
        server=postgres.psql("SHOW server_version").strip(),
        database_bytes=int(postgres.psql(f"SELECT pg_database_size('{SOURCE}')")),
        backup=backup,
        verification=verification,
        restore=restore,
        one_table=one_table,
        objects=objects,
        copy=(HOME / "s3").relative_to(ROOT),
        differences=differences,
        compare_seconds=compare_seconds,
        total_seconds=time.monotonic() - began,
    )


def fill(postgres: Cluster) -> None:
    """Create the source database, and say how far it has grown."""
    say(f"Filling database {SOURCE}: customers, orders, events, documents, scanned invoices")
    postgres.create_database(SOURCE)

    def size() -> str:
        return "  " + postgres.psql(f"SELECT pg_size_pretty(pg_database_size('{SOURCE}'))").strip()

    watch(lambda: postgres.psql(ROOT / "demo/shop.sql", SOURCE, scale=SCALE), size)


def watch(work: Callable[[], object], line: Callable[[], str]) -> None:
    """Print a line every few seconds until the work is done."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while not future.done():
            time.sleep(SECONDS_BETWEEN_LINES)
            print(line(), flush=True)
        future.result()


def run(airflow: Airflow, dag_id: str, **params: Any) -> dict[str, Any]:
    """Run a DAG as a user would, show what its tasks say; task id → result."""
    command = airflow.command(dag_id, params)
    say("$ " + command.shown)
    return airflow.run(command, on_line=lambda line: print("  " + line, flush=True))


def copy_bucket(s3: S3Server, folder: Path) -> int:
    """Copy everything stored into a folder, for looking at; the number of objects."""
    client = s3.client()
    count = 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            path = folder / BUCKET / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(BUCKET, item["Key"], str(path))
            count += 1
    return count


def say(text: str) -> None:
    """Announce a step."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    # So that everything is ended in either case.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(keep_open="--ui" in sys.argv[1:]))
    except RunFailed as error:
        sys.exit(f"\n{error}")
