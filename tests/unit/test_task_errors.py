"""What went wrong, as Airflow's log and users get it."""

import logging

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import InputError, ServerError
from airflow_pg_s3.core.postgres.client_versions import none_fits
from airflow_pg_s3.hooks.pg_s3 import PgS3Hook
from airflow_pg_s3.task_errors import LINE_WIDTH, final_error, logged, with_conn_ids

LOG = logging.getLogger("airflow_pg_s3.tests")


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (
            "the connection's extra 'x' is no libpq keyword",
            "the Airflow connection db's extra 'x' is no libpq keyword",
        ),
        ("give the connection a password", "give the Airflow connection db a password"),
        ("the connection names no database", "the Airflow connection db names no database"),
        ("check the AWS connection's rights", "check the AWS connection s3's rights"),
        ("the AWS connection 'other' names no region", "the AWS connection 'other' names no region"),
        (
            'connection failed: connection to server at "h", port 1 failed: Connection refused',
            'connection failed: connection to server at "h", port 1 failed: Connection refused; '
            "this is the Airflow connection db",
        ),
        (
            "cannot connect to app@h:1/x: Connection refused",
            "cannot connect to app@h:1/x: Connection refused; this is the Airflow connection db",
        ),
        ("the connection to the target was lost", "the connection to the target was lost"),
        ("the connection that marks this backup as alive was lost", None),
    ],
)
def test_a_message_names_the_airflow_connection_that_it_speaks_of(message, named):
    assert with_conn_ids(message, "db", "s3") == (named or message)
    assert with_conn_ids(message, None, None) == message


@pytest.mark.parametrize(("value", "now"), [("/opt/16/bin:/opt/18/bin", "/opt/16/bin:/opt/18/bin"), ("", "empty")])
def test_what_is_said_of_client_path_says_what_it_is_now_and_when_a_change_takes_effect(monkeypatch, value, now):
    monkeypatch.setenv("AIRFLOW__PG_S3__CLIENT_PATH", value)
    with pytest.raises(AirflowFailException) as refusal, PgS3Hook()._working():
        raise none_fits("pg_dump 18 is needed", 18, [])
    said = f"the option [pg_s3] client_path, which is now {now} (Airflow reads a change of airflow.cfg when it is "
    assert said in str(refusal.value)


def test_the_exception_has_the_sentence_and_the_log_has_it_in_lines_that_fit(caplog):
    sentence = "the connection names no database: " + "word " * 60 + "s3://" + "x" * 200
    raised = final_error(InputError(sentence), LOG, lambda text: text.replace("connection", "connection db"))
    assert type(raised) is AirflowFailException
    assert str(raised) == sentence.replace("connection", "connection db")
    (message,) = caplog.messages
    assert " ".join(message.split()) == str(raised)
    *lines, uri = message.splitlines()
    assert max(map(len, lines)) <= LINE_WIDTH
    assert uri.strip() == "s3://" + "x" * 200


def test_what_may_be_retried_stays_what_it_is():
    raised = final_error(ServerError("the server is gone"), LOG)
    assert (type(raised), str(raised)) == (ServerError, "the server is gone")


def test_a_note_is_logged_with_its_error(caplog):
    error = InputError("no")
    error.add_note("s3://b/x could not be deleted")
    assert final_error(error, LOG).__notes__ == ["s3://b/x could not be deleted"]
    assert caplog.messages == ["no\ns3://b/x could not be deleted"]


def test_only_what_is_logged_already_is_left_out_of_the_log(caplog):
    for error in (logged(ValueError("once"), LOG), ValueError("never seen")):
        try:
            raise error
        except ValueError:
            LOG.exception("Task failed with exception")
    assert caplog.messages == ["once", "Task failed with exception"]
