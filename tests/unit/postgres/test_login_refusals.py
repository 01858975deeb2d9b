"""What libpq itself refuses, in its own words, as libpq 18 says them before or instead of a login."""

import pytest

from airflow_pg_s3.core.postgres.login_refusals import refusal, unreachable

TO = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    "said",
    [
        'root certificate file "/root/.postgresql/root.crt" does not exist\nEither provide the file, or …',
        'server certificate for "elsewhere" does not match host name "127.0.0.1"',
        'authentication method requirement "password" failed: server requested SASL authentication',
        "channel binding required, but SSL not in use",
        'private key file "/client.key" has group or world access; file must have permissions u=rw (0600)',
    ],
)
def test_what_libpq_refuses_is_refused_in_its_words(said: str) -> None:
    assert refusal(TO + said) == said


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (TO + "SSL error: certificate verify failed", "correct the connection's sslrootcert, or the"),
        (TO + "fe_sendauth: no password supplied", "give the connection a password"),
        (TO + 'FATAL:  database "ordres" does not exist', "check the database's name"),
        (TO + 'FATAL:  role "ap" does not exist', "check the user's name"),
        ("connection is bad: local user with ID 12345 does not exist", "give the connection a login"),
    ],
)
def test_where_that_leaves_it_open_what_to_do_is_said(said: str, advice: str) -> None:
    words = said.removeprefix(TO).removeprefix("connection is bad: ")
    assert str(refusal(said)).startswith(f"{words}; {advice}")


@pytest.mark.parametrize(
    "said",
    [
        TO + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        TO + "timeout expired",
        TO + "server closed the connection unexpectedly",
        TO + "SSL SYSCALL error: EOF detected",
        TO + "FATAL:  the database system is shutting down",
        "failed to resolve host 'db': [Errno -3] Temporary failure in name resolution",
    ],
)
def test_what_may_pass_is_no_refusal(said: str) -> None:
    assert refusal(said) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            TO + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
            "Connection refused; check host and port, and that the server is running",
        ),
        (
            "connection failed: failed to resolve host 'bd': [Errno -2] Name or service not known",
            "failed to resolve host 'bd': [Errno -2] Name or service not known; check the host's name",
        ),
        (TO + "FATAL:  the database system is starting up", "FATAL:  the database system is starting up"),
        (
            f"{TO}FATAL:  too many\n{TO.removeprefix('connection failed: ')}FATAL:  too few",
            "FATAL:  too many; FATAL:  too few",
        ),
    ],
)
def test_what_cannot_be_reached_is_one_line_with_advice(said: str, words: str) -> None:
    assert unreachable(said) == words


def test_where_no_host_is_named_a_socket_is_missing() -> None:
    assert unreachable(TO + "No such file or directory", names_host=False) == (
        "No such file or directory; the connection names no host: give it one, or start the server of this machine"
    )
    assert unreachable(TO + "FATAL:  starting up", names_host=False) == "FATAL:  starting up"
