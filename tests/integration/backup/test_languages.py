"""A server that speaks another language: by English words rows are told from what may be shown."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_pg_s3.core.errors import ClientProgramError, InputError
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters
from testkit.postgres import DEBIAN, Cluster, all_installations, installations
from tests.support.sampling import sample

LOCALE = "de_DE.UTF-8"
# What Debian's server, the only one that is, is translated with, and what a locale is made from.
NEEDED = ("/usr/share/locale/de/LC_MESSAGES/postgres-15.mo", "/usr/share/i18n/locales/de_DE")


@pytest.fixture(scope="module")
def german() -> Iterator[Cluster]:
    missing = [path for path in NEEDED if not Path(path).exists()]
    of_debian = [each for each in all_installations() if each.folder == DEBIAN / "15/bin"]
    if missing or not of_debian:
        reason = f"not found: {', '.join(missing)} (Debian packages postgresql-15, locales)"
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    # Where the server's user, who is not ours, can read it.
    with tempfile.TemporaryDirectory(prefix="locales-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        german = {"settings": {"lc_messages": LOCALE}, "environment": {"LOCPATH": folder}}
        subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", f"{folder}/{LOCALE}"], check=True)
        with Cluster(installation=of_debian[0], **german) as cluster:
            with pytest.raises(RuntimeError, match="FEHLER:  ungültige Eingabesyntax für Typ integer: »SECRET«"):
                cluster.psql("select 'SECRET'::int")
            yield cluster


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
@pytest.mark.parametrize("client_major", sample([15, 18], 1, "languages"))
def test_errors_come_in_english_without_rows(
    german: Cluster, connections, back_up, restore, new_database, monkeypatch, client_major: int
) -> None:
    connections.set_option("client_path", str(german.pg_bin))
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    backup = back_up(german, new_database(german, "create table t as select 'SECRET' as a"))
    # The one of 18 sends a setting that the server does not know, which is an error that means nothing.
    connections.set_option("client_path", str(installations()[client_major]))
    copy = new_database(german)
    restore(german, copy, backup=backup["uri"])
    assert german.psql("select a from t", copy) == "SECRET\n"
    target = new_database(german, "create table t (a int)")
    with pytest.raises(ClientProgramError, match="invalid input syntax for type integer") as raised:
        restore(german, target, backup=backup["uri"], data_only=True, single_transaction=False)
    assert "SECRET" not in str(raised.value)


@pytest.fixture
def somebody(german: Cluster, new_database) -> Iterator[ConnectionParameters]:
    german.psql("create role \"some body\" login password 'x'")
    yield parameters(
        database=new_database(german), keywords=german.keywords | {"user": "some body", "password": "x"}
    )
    german.psql('drop owned by "some body"; drop role "some body"')


def test_who_may_not_choose_the_language_is_told_what_to_do_and_nothing_is_touched(
    german: Cluster, somebody: ConnectionParameters
) -> None:
    with pytest.raises(
        InputError, match=f"the server.s messages to some body@.* are in {LOCALE}, .*; as a superuser"
    ) as raised:
        somebody.connect()
    german.psql(str(raised.value).rpartition("as a superuser, ")[2])
    with somebody.connect() as connection:
        assert connection.execute("show lc_messages").fetchone() == ("C",)


def test_a_right_to_choose_the_language_is_enough(
    german: Cluster, somebody: ConnectionParameters, tmp_path: Path
) -> None:
    german.psql('grant set on parameter lc_messages to "some body"')
    env = somebody.environment(tmp_path)
    argv = [german.pg_bin / "psql", "--no-psqlrc", "-At", "-c", "show lc_messages", somebody.dbname_argument()]
    assert subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout == "C\n"
