"""A psql that a dump can make run commands is not taken, unless that is asked for."""

import pytest

from airflow_pg_s3.core.errors import InputError, IntegrityError
from airflow_pg_s3.core.restore.external.completeness import whole_plain, whole_tar
from airflow_pg_s3.core.restore.external.psql import choose_psql, open_to

BOTH = ["CVE-2025-8714", "CVE-2026-18408"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("13.21", BOTH),
        ("13.22", BOTH[1:]),
        ("14.18", BOTH),
        ("14.19", BOTH[1:]),
        ("14.24", []),
        ("15.13", BOTH),
        ("15.18", BOTH[1:]),
        ("15.19", []),
        ("16.9", BOTH),
        ("16.14", BOTH[1:]),
        ("16.15", []),
        ("17.5", BOTH),
        ("17.10", BOTH[1:]),
        ("17.11", []),
        ("18rc1", BOTH),
        ("18.0", BOTH[1:]),
        ("18.5", BOTH[1:]),
        ("18.6", []),
        ("19beta1", []),
        ("12.22", BOTH),
    ],
)
def test_which_versions_are_open_to_what(version, expected):
    assert open_to(version) == expected


@pytest.fixture
def installed(fake_program, monkeypatch):
    """Versions → the folders of such programs; nothing else is installed."""
    monkeypatch.setattr("airflow_pg_s3.core.postgres.client_versions.STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/bin")

    def make(*versions, programs=("pg_dump", "pg_restore", "psql")):
        return [
            str(fake_program(f"echo 'psql (PostgreSQL) {version}'", version=version, programs=programs).folder)
            for version in versions
        ]

    return make


def test_the_newest_without_holes_is_taken(installed):
    search = installed("18.4", "16.15", "17.11", "15.18")
    assert choose_psql(search, allow_unsafe=False).version == "17.11"
    assert choose_psql(search, allow_unsafe=True).version == "17.11"


def test_one_with_holes_is_taken_only_if_asked_for(installed):
    search = installed("16.14", "18.4", "13.5")
    with pytest.raises(InputError, match=r"psql 18.4 has CVE-2026-18408.*18.6, 17.11, 16.15, 15.19 or 14.24"):
        choose_psql(search, allow_unsafe=False)
    chosen = choose_psql(search, allow_unsafe=True)
    assert (chosen.version, chosen.knows_restrict) == ("18.4", True)
    assert not choose_psql(installed("13.5"), allow_unsafe=True).knows_restrict


def test_that_there_is_none_is_said(installed):
    with pytest.raises(InputError, match="install the package postgresql-client"):
        choose_psql(installed("16.14", programs=("pg_dump", "pg_restore")), allow_unsafe=True)


# -- how a script and a tar end -----------------------------------------------------------------------------------

END = b"\nCOPY\n--\n-- PostgreSQL database dump complete\n--\n\n"


@pytest.mark.parametrize(
    ("script", "key"),
    [
        (END, None),
        (END.replace(b"\n", b"\r\n"), None),
        (END + b"\\unrestrict abc\n\n", b"abc"),
        (END.rstrip(), None),
    ],
)
def test_a_whole_script_passes(script, key):
    for size in (1, 10, 1 << 20):
        chunks = [script[start : start + size] for start in range(0, len(script), size)]
        assert b"".join(whole_plain(iter(chunks), key)) == script


@pytest.mark.parametrize(
    ("script", "key"),
    [
        (b"", None),
        (END[:-12], None),
        (END, b"abc"),
        (END + b"\\unrestrict abc\n", None),
        (END + b"\\unrestrict other\n", b"abc"),
        (END + b"select 1;\n", None),
        (b"-- PostgreSQL database dump complete\n", None),
    ],
)
def test_the_last_chunk_of_another_script_does_not_pass(script, key):
    passed = []
    with pytest.raises(IntegrityError, match="ends too early"):
        passed.extend(whole_plain(iter([b"first", script] if script else []), key))
    assert script not in passed


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1023), b"x" + bytes(1023), bytes(1024) + b"x"])
def test_the_last_chunk_of_a_tar_without_its_end_does_not_pass(end):
    with pytest.raises(IntegrityError, match="ends too early"):
        list(whole_tar(iter([b"x" * 512, end])))
    assert list(whole_tar(iter([b"x" * 512, bytes(1024)])))[-1] == bytes(1024)
