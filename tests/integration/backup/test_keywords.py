"""What the client programs' libpq does not know would be missing where they connect: it is refused, by name."""

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.connection import parameters
from airflow_pg_s3.core.postgres.libpq_keywords import check_keywords
from testkit.postgres import Cluster, newest
from tests.integration.conftest import only_on

# Keyword → a value, and the first major whose libpq knows it.
KEYWORDS = {
    "sslsni": ("1", 14),
    "require_auth": ("scram-sha-256", 16),
    "sslrootcert": ("system", 16),
    "load_balance_hosts": ("random", 16),
    "sslnegotiation": ("postgres", 17),
    "sslkeylogfile": ("/nonexistent/log", 18),
    "oauth_client_secret": ("c4nary", 18),
}


@pytest.mark.parametrize("major", [14, 16, 17, 18])
def test_the_programs_of_each_major_are_asked_what_they_know(major: int) -> None:
    found = newest(major)
    refused = {}
    for keyword, (value, first) in KEYWORDS.items():
        params = parameters(database="d", keywords={"user": "u", "host": "h", "password": "p", keyword: value})
        try:
            check_keywords(params, found.folder, found.version)
        except InputError as error:
            refused[keyword] = first
            text = str(error)
            assert text.startswith(f"the connection to u@h:5432/d has {keyword}"), text
            assert f"the client programs {found.version} in {found.folder} do not know" in text
            assert "c4nary" not in text
    assert refused == {keyword: first for keyword, (_, first) in KEYWORDS.items() if first > major}


@only_on("moto")
@pytest.mark.parametrize("keyword", ["sslnegotiation", "sslkeylogfile", "oauth_client_secret"])
def test_older_programs_are_refused_before_anything_is_touched(
    pg16: Cluster, small, put, new_name, connections, repository, back_up, restore, leftovers, keyword: str
) -> None:
    backup = back_up(pg16, small.name)
    kept = leftovers()
    extra = {keyword: KEYWORDS[keyword][0]}
    target = new_name(pg16)
    connections.set("newer", pg16.airflow_connection(small.name, **extra))
    match = rf"has {keyword}, which the client programs {pg16.version} in "
    with pytest.raises(AirflowFailException, match=match):
        back_up(pg16, small.name, postgres_conn_id="newer")
    assert leftovers() == kept
    for uri in (backup["uri"], put(small.archive("custom"))):
        with pytest.raises(AirflowFailException, match=match):
            restore(pg16, target, backup=uri, postgres_conn_id="newer")
    assert pg16.psql(f"select count(*) from pg_database where datname = '{target}'").strip() == "0"


@only_on("moto")
def test_programs_that_know_them_get_them(
    pg18: Cluster, new_database, new_name, connections, back_up, restore
) -> None:
    database = new_database(pg18, "create table t as select 1 as i")
    names = ["require_auth", "load_balance_hosts", "sslnegotiation", "sslkeylogfile", "oauth_client_secret"]
    extra = {name: KEYWORDS[name][0] for name in names}
    connections.set("newer", pg18.airflow_connection(database, **extra))
    backup = back_up(pg18, database, postgres_conn_id="newer")
    target = new_name(pg18)
    assert restore(pg18, target, backup=backup["uri"], postgres_conn_id="newer")["rows"] == 1
