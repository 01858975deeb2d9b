"""Messages of core, which name the arguments of operators, in the words of the command line."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping

_TEXT = r"\"([^\"]*)\"|'([^']*)'"
_LIST = r"\[((?:(?:\"[^\"]*\"|'[^']*')(?:, )?)*|\w*)\]"
_VALUE = rf"(?:{_TEXT}|{_LIST}|(\w+))"
# What core says of Airflow; what the command line says in its place.
OF_AIRFLOW = {
    "the option [pg_s3] client_path": "--client-path",
    "postgres_conn_id": "--server",
    "set its schema field, or the operator's database": "name one",
    "give the connection that holds": "give the file that holds",
    "as age_identity_conn_id": "with --identity",
    "PgS3RestoreOperator": "pg-s3 restore",
    "PgS3BackupOperator": "pg-s3 backup",
    "made without include_globals=True": "made without --include-globals",
    "on this worker": "on this machine",
    "give the connection a password": "set PGPASSWORD, or add a line to ~/.pgpass",
    "correct the connection's login and password": "correct the user, and PGPASSWORD or ~/.pgpass",
    "give the connection a login": "name a user, or set PGUSER",
    "the connection names no host: give it one": "no host is named: set PGHOST, or write "
    "postgresql://USER@HOST/DATABASE",
    "if that is meant, give database=": "if that is meant, name it in the PostgreSQL argument: ",
    "as this one stands in the DAG": "as this one stands in the arguments",
    "keep a copy outside of Airflow, whose database may be what is lost, and one of Airflow's Fernet key, without "
    "which its connections cannot be read": "keep a copy where nothing is lost with this machine",
    "put a key into login and password of the AWS connection, a role into its extra (role_arn), or give the "
    "machine a role": "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    "put into the AWS connection's extra: "
    '{"config_kwargs": {"request_checksum_calculation": "when_required", "response_checksum_validation": '
    '"when_required"}}': "set AWS_REQUEST_CHECKSUM_CALCULATION and AWS_RESPONSE_CHECKSUM_VALIDATION to "
    "when_required",
    "endpoint_url in the AWS connection's extra": "--endpoint-url or AWS_ENDPOINT_URL",
    "the AWS connection's rights": "the rights of these credentials",
    "the AWS connection may": "these credentials may",
}


def in_words_of(command: argparse.ArgumentParser, message: str, words: Mapping[str, str] = OF_AIRFLOW) -> str:
    """Let a message name the options of a command, where it names arguments of core.

    ``give if_exists="clean"`` becomes ``give --if-exists clean``, and a list the same option several times.
    """
    for theirs, ours in words.items():
        message = message.replace(theirs, ours)
    for action in command._actions:
        if not action.option_strings:
            continue
        name, option = action.dest, action.option_strings[-1]

        def with_value(match: re.Match[str], action: argparse.Action = action, option: str = option) -> str:
            value = next((text for text in match.groups() if text is not None), "")
            if action.nargs != 0:
                items = ["".join(item) for item in re.findall(_TEXT, match[3] or "")]
                return " ".join(f"{option} {shlex.quote(one)}" for one in items or [value])
            return option if value == str(action.const) else match[0]

        message = re.sub(rf"\b{name}={_VALUE}", with_value, message)
        message = re.sub(rf"(?<![\w\"'-]){name}(?=: ['\"])", option, message)
        if "_" in name:
            message = re.sub(rf"(?<![\w\"'-]){name}(?![\w\"'=-])", option, message)
    return message
