"""Airflow runs the DAGs that we ship."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from testkit.postgres import Cluster
from testkit.s3 import Moto

DAGS = Path(__file__).parents[2] / "dags"
BUNDLE = "shipped"


class Outcome(NamedTuple):
    """How a DAG run ended."""

    state: str
    tasks: dict[str, str]
    results: dict[str, Any]  # task id → XCom return value


class Shop(NamedTuple):
    """A source database, its server's empty twin to restore into, a bucket; connections and defaults are set."""

    cluster: Cluster
    s3: Moto
    database: str
    target: str
    bucket: str


@pytest.fixture(scope="session")
def airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Airflow's metadata in a new SQLite file, with an empty folder, which this is, as the only bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    bundle = {
        "name": BUNDLE,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.utils.db import resetdb

        resetdb()
        DagBundlesManager().sync_bundles_to_db()
        yield folder


@pytest.fixture(scope="session")
def dag_files() -> dict[str, Path]:
    """Ids of the shipped DAGs, and the files that they are in."""
    from tests.support.airflow_versions import DagBag

    return {dag_id: Path(dag.fileloc) for dag_id, dag in DagBag(DAGS).dags.items()}


def link_alone(folder: Path, file: Path) -> None:
    """Make a DAG file the only one in a folder."""
    for link in folder.glob("*.py"):
        link.unlink()
    (folder / file.name).symlink_to(file)


@pytest.fixture
def run_dag(airflow_database: Path, dag_files: dict[str, Path]) -> Callable[..., Outcome]:
    """Run a shipped DAG in this process, with `conf` as the trigger form would send it.

    Its file is parsed anew for every run, as `dag.test()` writes the conf into the DAG's own params. It is alone
    in the bundle, all of which `dag.test()` stores in the database. Retries are off, as they would make a failure
    wait for minutes.
    """
    from airflow.models.xcom import XCOM_RETURN_KEY, XComModel
    from airflow.utils.session import create_session

    from tests.support.airflow_versions import DagBag, sync_bag_to_db

    def run(dag_id: str, **conf: Any) -> Outcome:
        link_alone(airflow_database, dag_files[dag_id])
        bag = DagBag(airflow_database)
        sync_bag_to_db(bag, BUNDLE, None)
        dag = bag.dags[dag_id]
        for task in dag.tasks:
            task.retries = 0
        done = dag.test(logical_date=None, run_conf=conf)
        with create_session() as session:
            stored = session.scalars(
                XComModel.get_many(run_id=done.run_id, dag_ids=dag_id, key=XCOM_RETURN_KEY)
            ).all()
            results = {xcom.task_id: XComModel.deserialize_value(xcom) for xcom in stored}
        return Outcome(
            state=str(done.state),
            tasks={task.task_id: str(task.state) for task in done.get_task_instances()},
            results=results,
        )

    return run


@pytest.fixture(scope="session")
def shop_template(pg18: Cluster) -> str:
    """The demo's database, to make copies of."""
    pg18.create_database("shop_template")
    pg18.psql(DAGS.parent / "demo/shop.sql", "shop_template")
    return "shop_template"


@pytest.fixture
def shop(pg18: Cluster, moto: Moto, shop_template: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Connections and variables as a deployment sets them, around databases of this test's own."""
    name = f"shop-{uuid.uuid4().hex[:8]}"
    target = f"{name} restored"
    bucket = moto.create_bucket(name)
    pg18.create_database(name, template=shop_template)
    pg18.create_database(target)
    for variable, value in {
        "PG_S3_REPOSITORY": f"s3://{bucket}/backups",
        "PG_S3_TARGET_CONN_ID": "postgres_target",
        "AIRFLOW__PG_S3__CLIENT_PATH": str(pg18.pg_bin),
        "AIRFLOW_CONN_POSTGRES_DEFAULT": pg18.airflow_connection(name),
        "AIRFLOW_CONN_POSTGRES_TARGET": pg18.airflow_connection(target),
        "AIRFLOW_CONN_AWS_DEFAULT": moto.airflow_connection(),
    }.items():
        monkeypatch.setenv(variable, value)
    yield Shop(pg18, moto, name, target, bucket)
    pg18.drop_database(name)
    pg18.drop_database(target)
