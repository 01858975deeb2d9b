"""docs/encryption.md: what it says is what the code takes."""

import json
import re
from pathlib import Path

import pyrage
from airflow.dag_processing.dagbag import DagBag

from airflow_pg_s3.hooks.connections import age_identities

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/encryption.md").read_text()


def test_the_file_of_age_keygen_and_a_second_identity_are_the_password_of_a_generic_connection(monkeypatch):
    old, new = (pyrage.x25519.Identity.generate() for _ in range(2))
    text = f"# created: 2026-11-27T00:00:00Z\n# public key: {old.to_public()}\n{old}\n{new}\n"
    (conn_type,) = re.findall(r"airflow connections add backup_key --conn-type (\w+) ", DOCUMENT)
    monkeypatch.setenv("AIRFLOW_CONN_BACKUP_KEY", json.dumps({"conn_type": conn_type, "password": text}))
    assert age_identities("backup_key") == [str(old), str(new)]


def test_the_environment_variables_are_those_of_the_dags(monkeypatch):
    named = set(re.findall(r"`(PG_S3_AGE_\w+)`", DOCUMENT))
    assert named == {"PG_S3_AGE_RECIPIENTS", "PG_S3_AGE_IDENTITY_CONN_ID"}
    for variable in named:
        monkeypatch.setenv(variable, "value")
    bag = DagBag(ROOT / "dags")
    assert bag.dags["pg_s3_backup"].params["age_recipients"] == ["value"]
    assert bag.dags["pg_s3_restore"].params["age_identity_conn_id"] == "value"
