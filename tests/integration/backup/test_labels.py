"""Labels: said at backup time, found again by the listing."""

from collections.abc import Callable

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from testkit.postgres import Cluster

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)


def test_backups_are_found_by_their_labels(
    pg16: Cluster, back_up: Callable[..., dict], list_backups, new_database
) -> None:
    database = new_database(pg16)
    before, after = {"release": 42, "stage": "before"}, {"release": "42", "stage": "after"}
    made = [back_up(pg16, database, labels=labels)["uri"] for labels in ({"release": "41"}, before, after, None)]
    assert {row["uri"] for row in list_backups()} == set(made)
    assert {row["uri"] for row in list_backups(labels={"release": "42"})} == set(made[1:3])
    (row,) = list_backups(labels={"release": 42, "stage": "after"})
    assert row["uri"] == made[2]
    assert row["labels"] == after
    assert len(list_backups(labels={"release": "42"}, limit=1)) == 1
    with pytest.raises(AirflowFailException, match=r"no backup .* with labels .*43"):
        list_backups(labels={"release": "43"})


def test_labels_that_are_none_are_refused(pg16: Cluster, back_up, new_database, leftovers) -> None:
    for labels in ("release=42", {"release": ["42"]}):
        with pytest.raises(AirflowFailException, match="labels must be a mapping"):
            back_up(pg16, new_database(pg16), labels=labels)
    assert leftovers() == []


def test_a_manifest_that_cannot_be_read_does_not_hide_the_others(
    pg16: Cluster, back_up, list_backups, new_database, s3, bucket: str, capfd
) -> None:
    database = new_database(pg16)
    made = [back_up(pg16, database) for _ in range(2)]
    newest = list_backups()[0]
    s3.client().put_object(Bucket=bucket, Key=newest["key"], Body=b"damaged")
    (other,) = list_backups(limit=1)
    assert {newest["uri"], other["uri"]} == {done["uri"] for done in made}
    assert f"left out: {newest['uri']} is not a manifest" in capfd.readouterr().out
