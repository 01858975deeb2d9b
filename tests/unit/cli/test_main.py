"""What cannot work is one sentence and an exit code; what is imported is what a command needs."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import pytest

from airflow_pg_s3.cli.commands import backup as backup_command
from airflow_pg_s3.cli.main import main
from airflow_pg_s3.cli.parser import build_parser
from airflow_pg_s3.core.backup.request import DEFAULT_COMPRESSION_LEVEL, DEFAULT_SPOOL_LIMIT
from airflow_pg_s3.core.repository.thaw import TIERS
from airflow_pg_s3.core.repository.verification_record import Level
from airflow_pg_s3.core.restore.request import IfExists
from airflow_pg_s3.core.retention.prune import DEFAULT_ORPHAN_AGE
from tests.support.stored_backups import RESTORED, Shelf

OWN = "airflow_pg_s3"
PG_S3 = Path(sys.executable).with_name("pg-s3")
HEAVY = {"airflow", "boto3", "botocore", "psycopg", "pydantic", "rich"}
MODULES = """
import sys
from airflow_pg_s3.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.fixture(autouse=True)
def of_a_shell(monkeypatch, tmp_path, s3_url):
    for name, value in {
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": s3_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def ended(capsys):
    """(*arguments) → exit code, standard output and standard error of a command."""

    def run(*arguments):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("list s3://no-such-bucket/x", 2, "error: the bucket 'no-such-bucket' does not exist"),
        ("list nowhere", 2, "error: repository must look like s3://bucket/prefix"),
        ("list", 2, "required: REPOSITORY"),
        ("lst s3://bkt/x", 2, "invalid choice: 'lst'"),
        ("list s3://bkt/x --limit 7d", 2, "argument --limit: must be a number, such as 7, not '7d'"),
        (
            "backup x s3://bkt/x --spool-limit 500MB",
            2,
            "argument --spool-limit: must be a number, such as 500000000, not '500MB'",
        ),
        ("list s3://bkt/x --limit 0", 2, "error: --limit must be at least 1"),
        ("list s3://bkt/x --before yesterday", 2, "error: --before must be a time such as"),
        ("list s3://bkt/x --max-age soon", 2, "must be a duration such as 90min, 26h or 2d, not 'soon'"),
        ("list s3://bkt/x --label x", 2, "must look like NAME=VALUE, not 'x'"),
        ("list s3://bkt/x --profile nobody", 2, "error: S3 cannot be used: The config profile (nobody)"),
        (
            "list s3://bkt/x --endpoint-url nowhere:80",
            2,
            "error: S3 cannot be used: Invalid endpoint: nowhere:80; write http:// or https:// before it",
        ),
        (
            "list s3://bkt/x --endpoint-url http://127.0.0.1:1",
            1,
            "; check the network and, for a store that is not Amazon's, --endpoint-url or AWS_ENDPOINT_URL",
        ),
        ("list s3://bkt/x --s3-extra-args /no/file", 2, "error: --s3-extra-args: /no/file cannot be read"),
        ("show s3://bkt/x/lastest", 2, "error: the bucket 'bkt' does not exist"),
        ("verify s3://bkt/p/orders/yesterday", 2, "is neither a manifest nor a name such as latest or 2026-"),
        (
            "backup s3://bkt/p orders",
            2,
            "argument POSTGRES: s3://bkt/p is on S3: the arguments are the other way round, or one is missing: "
            "write pg-s3 backup POSTGRES REPOSITORY; see",
        ),
        ("restore orders s3://bkt/p/orders/latest", 2, "missing: write pg-s3 restore BACKUP POSTGRES; see"),
        ("doctor s3://bkt/p", 2, "or one is missing: write pg-s3 doctor POSTGRES REPOSITORY; see"),
        ("cat lines s3://bkt/p/orders/latest", 2, "write pg-s3 cat BACKUP TABLE; see"),
        ("download folder s3://bkt/p/orders/latest", 2, "write pg-s3 download BACKUP FOLDER; see"),
        (
            "prune s3://bkt/x --keep-last 1 --orphan-age 1s",
            2,
            "error: --orphan-age must be at least 2 h, not 1 s, or backups in progress look abandoned",
        ),
        ("prune s3://bkt/x", 2, "give one of --keep-last, --keep-hourly"),
        ("backup x s3://bkt/x --jobs 0", 2, "error: jobs must be at least 1"),
        ("backup postgresql://[ s3://bkt/x", 2, "error: the PostgreSQL argument is neither a URI"),
        ("backup service=nowhere s3://bkt/x", 2, 'error: definition of service "nowhere" not found: correct'),
        (
            "backup postgresql://u:secret@127.0.0.1:1/x s3://bkt/x",
            1,
            "error: cannot connect to u@127.0.0.1:1/x: Conn",
        ),
        ("backup user= s3://bkt/x", 2, "error: the connection names no database: name one"),
        ("backup x s3://bkt/x postgresql://u:secret@h/d", 2, "unrecognized arguments: postgresql://u:(not"),
        (
            "restore s3://bkt/x.json x --tables a",
            2,
            "unrecognized arguments: --tables a (did you mean --table?); see pg-s3 restore --help",
        ),
        ("restore s3://bkt/x.json x --clean", 2, "--clean (did you mean --if-exists clean?); see pg-s3 restore"),
        ("restore s3://bkt/x.json x --zap", 2, "unrecognized arguments: --zap; see pg-s3 restore --help"),
        (
            "backup x s3://bkt/x --pg-dump-option --no-sync",
            2,
            "expected one argument (if --no-sync is its value, write --pg-dump-option=--no-sync); see",
        ),
        ("restore latest x", 2, "backup must look like s3://BUCKET/PREFIX/DATABASE/latest, not 'latest'"),
        (
            "backup postgresql:///x?port=1 s3://bkt/x",
            1,
            "no host is named: set PGHOST, or write postgresql://USER@HOST/DATABASE",
        ),
        ("verify s3://bkt/dump.tar", 2, "restore it with pg-s3 restore"),
        ("verify s3://bkt/x.json --level checksum --check true", 2, "leave out --server, "),
        ("verify s3://bkt/x.json --identity /no/file", 2, "error: --identity: /no/file cannot be read"),
        ("restore s3://bkt/x.json x --if-exists replace --table a", 2, "error: --if-exists replace would leave"),
        (
            "restore s3://bkt/x.json x --schema-only --data-only",
            2,
            "error: --schema-only and --data-only together",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence_and_an_exit_code(ended, arguments, code, said):
    was, out, err = ended(*arguments.split(" "))
    assert (was, out) == (code, ""), err
    assert said in err
    # What is wrong comes before everything else, and on one line.
    assert err.startswith(("error: ", "warning: the password in the arguments"))
    assert "Traceback" not in err
    assert "secret" not in err


def test_a_store_that_speaks_http_alone_is_said_to_do_so(ended, s3_url):
    code, _, err = ended("list", "s3://bkt/x", "--endpoint-url", s3_url.replace("http://", "https://"))
    assert code == 1
    assert "; the store may speak http only: write http:// in --endpoint-url or AWS_ENDPOINT_URL" in err


def test_half_of_a_key_is_wrong_use_and_none_at_all_may_be_a_role_that_is_late(ended, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, _, err = ended("list", "s3://bkt/x")
    assert (code, "missing: AWS_SECRET_ACCESS_KEY; set it" in err) == (2, True), err
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    code, _, err = ended("list", "s3://bkt/x")
    assert (code, "there are no AWS credentials" in err) == (1, True), err


def test_a_database_that_has_no_backups_is_answered_with_one_that_is_near(ended, s3_client, bucket):
    Shelf(s3_client, f"s3://{bucket}/p").put_backup("orders", datetime(2026, 11, 20, 3, tzinfo=UTC))
    code, _, err = ended("list", f"s3://{bucket}/p", "--database", "order")
    assert code == 0
    assert err == f"warning: there is no backup of 'order' in s3://{bucket}/p: did you mean 'orders'?\n"
    code, _, err = ended("prune", f"s3://{bucket}/p", "--database", "order", "--keep-last", "1")
    assert code == 0
    assert f"warning: nothing is stored for 'order' in s3://{bucket}/p: did you mean 'orders'?\n" in err
    assert "complete backup" not in err


def test_a_client_path_that_is_no_folder_is_refused(ended, tmp_path):
    code, _, err = ended("backup", "x", "s3://bkt/x", "--client-path", f"{tmp_path}/nowhere")
    assert (code, f"argument --client-path: there is no folder '{tmp_path}/nowhere'" in err) == (2, True), err


@pytest.mark.parametrize("name", ["yesterday", "28.11.2026"])
def test_what_names_no_backup_is_answered_with_what_does(ended, bucket, name):
    for command in (["show"], ["restore", "x"]):
        code, out, err = ended(command[0], f"s3://{bucket}/p/orders/{name}", *command[1:])
        assert (code, out) == (2, "")
        assert f"s3://{bucket}/p/orders/{name}: list the backups" in err
        assert "may stand latest, latest-verified, or a time such as 2026-11-20T03:00" in err


def test_what_a_prune_has_done_is_a_result_and_its_plan_is_not(ended, s3_client, bucket):
    shelf, at = Shelf(s3_client, f"s3://{bucket}/p"), datetime(2026, 11, 20, 3, tzinfo=UTC)
    verified, _ = (shelf.put_backup("orders", at, number) for number in range(2))
    shelf.put_evidence("orders", verified, RESTORED, at=at)
    shelf.put("orders/20261119T030000Z-000000.json", b"of unknown size")
    prune = ("prune", f"s3://{bucket}/p", "--keep-last", "1", "--dry-run")
    code, out, err = ended(*prune)
    assert (code, out.startswith("orders: 2 backups kept, 0 would be deleted, "), out.count("\n")) == (0, True, 1)
    # The rows tell how large the backups are, whichever reason keeps them.
    assert re.findall(r"^\S+ +\d+ \w+ +(\d+ \w+) ", err, re.MULTILINE) == ["4 B", "4 B"]
    assert " 0 B" not in err
    code, out, err = ended(*prune, "--output", "json")
    assert (json.loads(out)["counts"]["kept"], "orders: 2 backups kept" in err) == (2, True)


def test_a_standard_output_that_takes_no_results_keeps_nothing_from_being_done(
    s3_client, bucket, tmp_path, monkeypatch, capsys
):
    shelf, at = Shelf(s3_client, f"s3://{bucket}/p"), datetime(2026, 11, 20, 3, tzinfo=UTC)
    for database in (quote("größe"), "orders"):
        for number in range(2):
            shelf.put_backup(database, at, number)
    prune = ["prune", f"s3://{bucket}/p", "--keep-last", "1"]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(prune) == 0
    err = capsys.readouterr().err
    assert (
        "warning: the result cannot be written (No space left on device), which is:\ngröße: 1 backup kept" in err
    )
    with open(tmp_path / "results", "w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        assert main(prune) == 0
    assert [line.split(":")[0] for line in (tmp_path / "results").read_text().splitlines()] == [
        r"gr\xf6\xdfe",
        "orders",
    ]


def test_a_bug_shows_where_it_is(monkeypatch):
    monkeypatch.setattr(backup_command, "back_up", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["backup", "x", "s3://bkt/x"])


def test_a_password_in_the_arguments_is_warned_of_and_never_repeated(ended):
    _, _, err = ended("backup", "postgresql://u:secret@127.0.0.1:1/x", "s3://bkt/x")
    assert "warning: the password in the arguments can be read by everybody on this machine" in err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--help"], set()),
        (["restore", "--help"], set()),
        (["list", "nowhere"], {"boto3", "botocore", "psycopg", "pydantic"}),
    ],
    ids=["help", "help of a command", "list"],
)
def test_a_command_imports_what_it_needs_and_never_airflow(arguments, wanted):
    done = subprocess.run([sys.executable, "-c", MODULES, *arguments], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split(" "))
    assert OWN in imported
    assert imported & HEAVY == wanted


def test_no_command_imports_airflow():
    program = (
        "import importlib, pkgutil, sys; sys.modules['airflow'] = None\n"
        "import airflow_pg_s3.cli.commands as commands\n"
        "for module in pkgutil.iter_modules(commands.__path__, commands.__name__ + '.'):\n"
        "    importlib.import_module(module.name); print(module.name.rpartition('.')[2])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert {"backup", "cat", "doctor", "restore", "verify"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("pg-s3 res", "restore "),
        ("pg-s3 restore --if-exists ", "fail\vclean\vreplace"),
        ("pg-s3 cat --he", "--he"),
    ],
)
def test_a_shell_completes_commands_options_and_values(typed, completed):
    line = {"COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    asked = os.environ | line | {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash"}
    command = f"'{PG_S3}' 8>&1 9>/dev/null"
    done = subprocess.run(["bash", "-c", command], env=asked, capture_output=True, text=True)
    assert done.stdout.startswith(completed)


def test_what_the_options_repeat_of_core_is_as_core_has_it():
    """They are declared without importing it."""
    parse = build_parser().parse_args
    backup = parse(["backup", "x", "s3://b/x"])
    assert (backup.compression_level, backup.spool_limit) == (DEFAULT_COMPRESSION_LEVEL, DEFAULT_SPOOL_LIMIT)
    assert parse(["prune", "s3://b/x"]).orphan_age == DEFAULT_ORPHAN_AGE
    for value in get_args(IfExists):
        assert parse(["restore", "b", "x", "--if-exists", value]).if_exists == value
    for value in get_args(Level):
        assert parse(["verify", "b", "--level", value]).level == value
    for value in TIERS:
        assert parse(["restore", "b", "x", "--thaw", value]).thaw == value


def test_the_help_names_a_document_that_is_there_whatever_the_width(ended, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    _, out, _ = ended("--help")
    assert Path(out.splitlines()[-1].strip()).is_file()
