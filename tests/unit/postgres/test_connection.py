"""What a connection says reaches a client program unchanged and unseen, and nothing else does.

libpq itself is the judge: it reads the environment, the password file and the service file as a client would.
"""

import contextlib
import os
import socket
import stat
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from airflow_pg_s3.core.errors import InputError
from airflow_pg_s3.core.postgres.connection import ConnectionParameters, parameters

AWKWARD = ["sp ace", "qu'ote", 'dou"ble', "back\\slash", "col:on", "e=q", "per%cent", "ünï€", "#hash", "a\\", "*"]
letters = st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]) | st.sampled_from("\\:'\"= %#")
texts = st.text(letters, min_size=1)


def of(database="shop", **keywords):
    return parameters(database=database, keywords=keywords)


def seen_by_a_client(params, folder):
    """libpq's keywords as a client program has them that gets our environment and argument."""
    env = params.written_environment(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PG")]:
            patch.delenv(name)
        for name, value in env.items():
            if name.startswith("PG"):
                patch.setenv(name, value)
        connection = psycopg.pq.PGconn.connect_start(params.dbname_argument().encode())
        # Before it has sent anything, if there is anything that listens.
        seen = {o.keyword.decode(): o.val.decode() for o in connection.info if o.val is not None}
        seen["password"] = connection.password.decode()
        connection.finish()
    return seen


SOMEWHERE = {"host": "127.0.0.1", "port": "1", "user": "somebody"}


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("keyword", ["user", "password", "options", "application_name", "sslpassword", "sslkey"])
def test_a_value_of_any_characters_reaches_a_client_unchanged(keyword, text, tmp_path):
    params = of(**SOMEWHERE | {keyword: text})
    assert seen_by_a_client(params, tmp_path)[keyword] == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=texts, sslpassword=texts, database=texts)
def test_secrets_and_names_of_any_characters_reach_a_client_unchanged(password, sslpassword, database, tmp_path):
    assume(sslpassword == sslpassword.strip())
    seen = seen_by_a_client(of(database, **SOMEWHERE, password=password, sslpassword=sslpassword), tmp_path)
    assert (seen["password"], seen["sslpassword"], seen["dbname"]) == (password, sslpassword, database)


EVERY_KEYWORD = {
    "host": "127.0.0.1",
    "hostaddr": "127.0.0.1",
    "port": "1",
    "user": "somebody",
    "connect_timeout": "7",
    "options": "-c statement_timeout=5s",
    "application_name": "mine",
    "keepalives": "1",
    "keepalives_idle": "11",
    "keepalives_interval": "12",
    "keepalives_count": "13",
    "tcp_user_timeout": "14",
    "sslmode": "prefer",
    "sslcert": "/cert",
    "sslkey": "/key",
    "sslpassword": "secret",
    "sslrootcert": "/root",
    "channel_binding": "prefer",
    "gssencmode": "disable",
    "krbsrvname": "pg",
    "target_session_attrs": "any",
    "require_auth": "scram-sha-256",
}


def test_every_keyword_reaches_a_client_whether_it_has_a_variable_or_not(tmp_path):
    seen = seen_by_a_client(of(**EVERY_KEYWORD), tmp_path)
    assert {keyword: seen[keyword] for keyword in EVERY_KEYWORD} == EVERY_KEYWORD


def test_nothing_secret_is_in_the_environment_and_files_are_private(tmp_path):
    secrets = {
        option.keyword.decode(): f"CANARY-{option.keyword.decode()}"
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.dispchar in (b"*", b"D") and option.keyword != b"replication"
    }
    assert {"password", "sslpassword"} <= set(secrets)
    old = os.umask(0)
    try:
        params = of(**SOMEWHERE, **secrets)
        env = params.written_environment(tmp_path)
    finally:
        os.umask(old)
    assert "CANARY" not in repr(env) + params.dbname_argument() + repr(params) + params.endpoint
    files = list(tmp_path.iterdir())
    assert sum(file.read_text().count("CANARY") for file in files) == len(secrets)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_what_is_not_secret_needs_no_files(tmp_path):
    env = of(**SOMEWHERE, sslmode="require").written_environment(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (env["PGHOST"], env["PGPORT"], env["PGUSER"], env["PGSSLMODE"]) == (
        "127.0.0.1",
        "1",
        "somebody",
        "require",
    )


def test_variables_of_the_process_do_not_leak_in(tmp_path, monkeypatch):
    for name in ("PGHOST", "PGPASSWORD", "PGOPTIONS", "PGSERVICE", "PGSSLMODE", "PGTZ", "PGDATESTYLE", "PGFUTURE"):
        monkeypatch.setenv(name, "evil")
    for name in ("AIRFLOW_CONN_S3", "AWS_SECRET_ACCESS_KEY", "USER_PASSWORD", "PATH_TO_EVIL"):
        monkeypatch.setenv(name, "evil")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("HOME", "/home/airflow")
    env = of(user="somebody").written_environment(tmp_path)
    assert "evil" not in env.values()
    assert {name: env[name] for name in env if name.startswith("PG")} == {"PGUSER": "somebody", "PGTZ": "UTC"}
    # Programs speak English, and find ~/.postgresql.
    assert (env["LC_ALL"], env["HOME"]) == ("C", "/home/airflow")


@pytest.mark.parametrize(
    "keywords",
    [
        pytest.param({"host": "a.example,b.example", "port": "5,6", "load_balance_hosts": "random"}, id="hosts"),
        pytest.param({"host": "/run,b.example", "hostaddr": ",192.0.2.1", "port": "5,6"}, id="addresses"),
        pytest.param({"service": "theirs"}, id="a service file"),
    ],
)
@pytest.mark.parametrize("hostaddr", ["127.0.0.2", ""])
def test_a_pinned_address_goes_before_whatever_else_is_said(keywords, hostaddr, tmp_path, monkeypatch):
    (tmp_path / ".pg_service.conf").write_text("[theirs]\nhost=a.example,b.example\nport=5,6\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    address = {"host": "/nonexistent", "hostaddr": hostaddr, "port": "1"}
    pinned = replace(of("it's", user="somebody", **keywords), address=address)
    seen = seen_by_a_client(pinned, tmp_path)
    assert {name: seen[name] for name in address} == address
    assert seen["dbname"] == "it's"


@pytest.mark.parametrize("keyword", ["client_encoding", "dbname", "replication"])
def test_what_would_change_the_dump_is_not_passed_on(keyword, tmp_path):
    env = parameters(database="shop", keywords={"user": "u", keyword: "CANARY"}).written_environment(tmp_path)
    assert "CANARY" not in env.values()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_password_goes_before_the_connections_own_password_file(order, tmp_path):
    keywords = {**SOMEWHERE, "password": "right", "passfile": "/elsewhere/pgpass"}
    params = of(**dict(list(keywords.items())[::order]))
    assert seen_by_a_client(params, tmp_path)["password"] == "right"


def test_the_connections_own_password_file_is_used_without_a_password(tmp_path):
    (tmp_path / "theirs").write_text("*:*:*:*:from the file\n")
    (tmp_path / "theirs").chmod(0o600)
    assert seen_by_a_client(of(**SOMEWHERE, passfile=tmp_path / "theirs"), tmp_path)["password"] == "from the file"


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"password": "a\nb"}, "the password holds a newline"),
        ({"password": "ab\r"}, "the password holds a newline"),
        ({"sslpassword": "CANARY\nhost=evil"}, "sslpassword .*holds a newline"),
        ({"sslpassword": " CANARY"}, "sslpassword begins or ends with white space"),
        ({"sslpassword": "CANARY\r"}, "sslpassword begins or ends with white space"),
        ({"sslpassword": "CANARY" * 200}, "sslpassword .* more than 950 bytes"),
        ({"service": "theirs", "keepalives_idle": "5"}, r"both 'service' and \['keepalives_idle'\]"),
    ],
)
def test_what_libpqs_files_cannot_carry_is_refused_without_being_repeated(keywords, problem, tmp_path):
    with pytest.raises(InputError, match=problem) as caught:
        of(user="u", **keywords).written_environment(tmp_path)
    assert "CANARY" not in str(caught.value)


def test_the_longest_value_that_is_taken_reaches_a_client(tmp_path):
    value = "ü" * 475
    assert seen_by_a_client(of(**SOMEWHERE, sslpassword=value), tmp_path)["sslpassword"] == value


def test_an_unknown_keyword_is_refused_and_named():
    with pytest.raises(InputError, match="extra 'sslmod' is no libpq keyword; remove it"):
        of(user="u", sslmod="require")


def test_an_unknown_keyword_that_came_another_way_is_refused_too(tmp_path):
    with pytest.raises(InputError, match="'sslmod', which is no libpq keyword"):
        ConnectionParameters(database="d", keywords={"sslmod": "require"}).written_environment(tmp_path)


def test_a_libpq_of_psycopgs_that_takes_a_keyword_or_a_value_for_something_else_is_named(monkeypatch):
    monkeypatch.setattr(psycopg.pq, "version", lambda: 150020)
    with pytest.raises(InputError, match=r"sslrootcert=system, which takes libpq 16 .* psycopg uses 15\.20 here"):
        of(user="u", sslrootcert="system")
    with pytest.raises(InputError, match=r"extra 'sslsomething' is no libpq keyword.*psycopg uses libpq 15\.20"):
        of(user="u", sslsomething="1")


@pytest.mark.parametrize("keyword", ["password", "host", "user"])
def test_a_nul_character_is_refused(keyword):
    with pytest.raises(InputError, match=f"the connection's {keyword} holds a NUL") as caught:
        of(**{keyword: "CANARY\0"})
    assert "CANARY" not in str(caught.value)


def test_values_of_airflows_extras_become_what_libpq_wants():
    params = of(user="u", keepalives=True, sslcompression=False, port=5433, sslmode=None, password="")
    assert params.keywords == {"user": "u", "keepalives": "1", "sslcompression": "0", "port": "5433"}


@pytest.mark.parametrize(
    ("database", "keywords", "expected"),
    [
        ("given", {"dbname": "extra", "user": "u"}, "given"),
        (None, {"dbname": "extra", "user": "u"}, "extra"),
        ("", {"user": "u"}, "u"),
    ],
)
def test_the_database_is_the_one_given_else_libpqs_default(database, keywords, expected):
    assert parameters(database=database, keywords=keywords).database == expected


def test_a_connection_without_a_database_is_refused():
    with pytest.raises(InputError, match="names no database: set its schema field"):
        parameters(database=None, keywords={"host": "h"})


def test_a_database_name_with_a_nul_character_is_refused():
    with pytest.raises(InputError, match="NUL"):
        of("a\0b", user="u")


@pytest.mark.parametrize(
    "name",
    [
        "hard db",
        "a'b",
        'a"b',
        "a\\b",
        "a\\",
        "host=evil",
        "x host=evil",
        "' host='evil",
        "\\' host=evil",
        "postgres://evil/x",
        "postgresql://",
        "a=b=c",
        "-Fp",
        "--file=x",
        " leading",
        "trailing ",
        "new\nline",
        "ünï",
        "%20",
    ],
)
def test_the_argument_names_the_database_and_nothing_else(name):
    argument = of(name, user="u").dbname_argument()
    assert conninfo_to_dict(argument) == {"dbname": name}
    assert not argument.startswith("-")


def test_messages_say_who_connects_where_and_never_the_password():
    params = of("shop", user="bob", host="db", password="CANARY")
    assert params.endpoint == "bob@db:5432/shop"
    assert params.of("other").endpoint == "bob@db:5432/other"
    assert of("shop", user="bob").host == "local socket"
    assert of("shop", user="bob", hostaddr="10.0.0.1").host == "10.0.0.1"


@contextlib.contextmanager
def server_that_says(message):
    """A server that reads one startup packet, answers with a fatal error, and keeps what it was told."""
    told = {}

    def serve():
        peer, _ = listener.accept()
        with peer:
            length, _protocol = struct.unpack("!ii", peer.recv(8, socket.MSG_WAITALL))
            words = peer.recv(length - 8, socket.MSG_WAITALL).decode().rstrip("\0").split("\0")
            told.update(zip(words[::2], words[1::2], strict=True))
            body = f"SFATAL\0VFATAL\0C28000\0M{message}\0\0".encode()
            peer.sendall(b"E" + struct.pack("!i", len(body) + 4) + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield (
            told,
            {
                "host": "127.0.0.1",
                "port": listener.getsockname()[1],
                "sslmode": "disable",
                "gssencmode": "disable",
            },
        )
        thread.join()


@pytest.mark.parametrize(
    "message",
    [
        'password authentication failed for user "bob"',
        'no pg_hba.conf entry for host "1.2.3.4"',
        'database "shop" does not exist',
        'role "bob" does not exist',
        'permission denied for database "shop"',
        'database "shop" is not currently accepting connections',
        'role "bob" is not permitted to log in',
        'unrecognized configuration parameter "geko"',
        'permission denied to set parameter "log_statement"',
        'invalid value for parameter "work_mem": "much"',
        # Of pgbouncer, Supabase and RDS Proxy.
        "SASL authentication failed",
        "no such user: bob",
        "no such database: shop",
        "unsupported startup parameter: options",
        "Tenant or user not found",
        "(ENOTFOUND) tenant/user postgres.shop not found",
        "This RDS Proxy requires TLS connections",
    ],
)
def test_a_servers_no_is_an_input_error(message):
    with server_that_says(message) as (_, keywords), pytest.raises(InputError) as caught:
        of("shop", user="bob", password="CANARY", **keywords).connect()
    assert f"cannot connect to bob@127.0.0.1:{keywords['port']}/shop: " in str(caught.value)
    assert message in str(caught.value)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        "the database system is starting up",
        "sorry, too many clients already",
        "query_wait_timeout",
        "server login has been failing, try again later",
    ],
)
def test_a_servers_not_now_is_an_operational_error_that_may_pass(message):
    with server_that_says(message) as (_, keywords), pytest.raises(psycopg.OperationalError, match=message):
        of("shop", user="bob", **keywords).connect()


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_hosts_one_may_still_come_up(order):
    with server_that_says("no such user: bob") as (_, keywords):
        hosts, ports = ["127.0.0.1", "127.0.0.2"][::order], [str(keywords["port"]), "1"][::order]
        keywords |= {"host": ",".join(hosts), "port": ",".join(ports)}
        with pytest.raises(psycopg.OperationalError, match="no such user: bob"):
            of("shop", user="bob", **keywords).connect()


def test_several_hosts_that_all_refuse_are_an_input_error():
    with server_that_says("no such user: bob") as (_, one), server_that_says("no such user: bob") as (_, other):
        keywords = one | {"host": "127.0.0.1,127.0.0.1", "port": f"{one['port']},{other['port']}"}
        with pytest.raises(InputError, match="no such user: bob"):
            of("shop", user="bob", **keywords).connect()


def test_a_server_that_is_not_there_is_an_operational_error():
    with pytest.raises(psycopg.OperationalError, match="refused"):
        of("shop", **SOMEWHERE).connect()


def test_our_own_connection_says_what_the_connection_says_and_nothing_of_the_processs_variables(monkeypatch):
    variables = {"PGHOST": "evil.invalid", "PGDATABASE": "evil", "PGOPTIONS": "-c evil=1", "PGTZ": "Asia/Tokyo"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with server_that_says("no") as (told, keywords), pytest.raises(psycopg.OperationalError):
        of("x host=evil.invalid", user="bob", options="-c a=b", client_encoding="LATIN1", **keywords).connect()
    assert told == {
        "user": "bob",
        "database": "x host=evil.invalid",
        "options": "-c a=b",
        "application_name": "airflow-provider-pg-s3",
        "client_encoding": "UTF8",
    }
    assert {name: os.environ[name] for name in variables} == variables


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("sslmode", "sideways"),
        ("sslmode", ""),
        ("port", "99999"),
        ("port", "abc"),
        ("keepalives_idle", "soon"),
        ("connect_timeout", "later"),
        ("channel_binding", "maybe"),
        ("require_auth", "nothing"),
    ],
)
def test_a_value_that_libpq_refuses_is_an_input_error(keyword, value):
    with pytest.raises(InputError, match=r"(cannot connect to|the connection to) bob@127\.0\.0\.1:") as caught:
        of("shop", **{"user": "bob", "host": "127.0.0.1", keyword: value}).connect()
    problem = str(caught.value).partition("/shop ")[2] or str(caught.value).partition("/shop: ")[2]
    assert keyword in problem
    assert value in problem


def test_the_files_are_never_seen_half_written(tmp_path):
    params = of(user="u", password="p", sslpassword="q")
    env = params.written_environment(tmp_path)
    files = [Path(env["PGPASSFILE"]), Path(env["PGSERVICEFILE"])]
    whole = [file.read_text() for file in files]

    def write():
        for _ in range(300):
            params.written_environment(tmp_path)

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write) for _ in range(2)]
        while not all(one.done() for one in writing):
            assert [file.read_text() for file in files] == whole
        for one in writing:
            one.result()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_a_password_that_expires_is_asked_for_at_each_login_and_nowhere_else(tmp_path):
    asked = []

    def password():
        asked.append(f"CANARY {len(asked)}")
        return asked[-1]

    params = parameters(database="shop", keywords=SOMEWHERE, password=password)
    assert params.of("other").password is password
    assert "CANARY" not in repr(params) + params.endpoint + params.dbname_argument()
    assert asked == []
    env = params.written_environment(tmp_path)
    assert "CANARY" not in repr(env)
    assert Path(env["PGPASSFILE"]).read_text() == "*:*:*:*:CANARY 0\n"
    params.renew_password(env)
    assert Path(env["PGPASSFILE"]).read_text() == "*:*:*:*:CANARY 1\n"
    assert seen_by_a_client(params, tmp_path)["password"] == "CANARY 2"
    with pytest.raises(psycopg.OperationalError, match="refused"):
        params.connect()
    # Once for the files and the connection that an environment takes.
    with pytest.raises(psycopg.OperationalError, match="refused"):
        params.environment(tmp_path)
    assert len(asked) == 5


def test_a_password_that_stays_is_not_written_again(tmp_path):
    params = of(**SOMEWHERE, password="p")
    env = params.written_environment(tmp_path)
    Path(env["PGPASSFILE"]).unlink()
    params.renew_password(env)
    assert list(tmp_path.iterdir()) == []
