"""What is read out of a table of contents is what pg_restore lists and prints, to the byte."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_pg_s3.core.postgres.archive.toc import Toc, read_folder, read_toc
from testkit.postgres import Cluster
from testkit.toc_writer import listed, on_one_line
from tests.integration.restore.test_schema_names import FILL

ARCHIVES = {"directory": "-Fd", "custom": "-Fc", "tar": "-Ft"}
# Not printed, but applied, or only with --create; and of lists of large objects, pg_restore makes commands.
UNPRINTED = {
    "BLOB METADATA", "BLOBS", "DATABASE", "DATABASE PROPERTIES", "ENCODING", "SEARCHPATH", "STDSTRINGS",
}  # fmt: skip

HEADER = re.compile(rb"-- TOC entry \d+ \(class \d+ OID \d+\)\n")


def ask_pg_restore(cluster: Cluster, *arguments: str | Path) -> bytes:
    """Its output, which may be in any encoding."""
    argv = [cluster.pg_bin / "pg_restore", "--verbose", "--file=-", *arguments]
    return subprocess.run(argv, env=cluster.client_env(), capture_output=True, check=True).stdout


def listing(cluster: Cluster, archive: Path) -> bytes:
    lines = ask_pg_restore(cluster, "--list", archive).split(b"\n")
    return b"".join(
        b"%b\n" % line for line in lines if (line and line[:1] != b";") or line.startswith(b";\tdepends on: ")
    )


def unprinted(cluster: Cluster, archive: Path, toc: Toc) -> set[str]:
    """Make sure that pg_restore prints the definitions just so; return the kinds of those that it does not."""
    script, missing = ask_pg_restore(cluster, archive), set()
    # Of a header that rows repeat, the first counts.
    headers = {header[0]: header.start() for header in reversed(list(HEADER.finditer(script)))}
    for entry in toc.entries:
        header = b"-- TOC entry %d (class %d OID %d)\n" % (entry.dump_id, entry.catalog_oid, entry.oid)
        at = headers.get(header, -1)
        name = b"Name: %b; Type: %b; Schema: " % (
            on_one_line(entry.name, toc.codec),
            entry.kind.encode(),
        )
        if at == -1:
            missing.add(entry.kind)
            continue
        begin = script.index(b"\n--\n\n", at) + 5
        assert name in script[at:begin], entry
        if entry.kind not in UNPRINTED and not entry.name.startswith("LARGE OBJECTS "):
            assert script.startswith(entry.definition + b"\n\n" * bool(entry.definition) + entry.copy, begin), (
                entry
            )
    return missing


def assert_read_as_by_pg_restore(cluster: Cluster, database: str, folder: Path) -> Toc:
    """Compare archives of all formats with what pg_restore says of them; return the directory's."""
    tocs = {}
    for form, option in ARCHIVES.items():
        archive = folder / form
        # Rows are not what this is about: the directory's are enough.
        less = [] if form == "directory" else ["--exclude-table-data=*", "--no-blobs"]
        cluster.run("pg_dump", option, *less, f"--file={archive}", dbname=database)
        toc = tocs[form] = read_folder(archive) if archive.is_dir() else read_toc(archive)
        assert b"".join(listed(entry, toc.codec) for entry in toc.entries) == listing(cluster, archive), form
        assert unprinted(cluster, archive, toc) <= UNPRINTED, form
    return tocs["directory"]


def test_the_hard_database(postgres: Cluster, hard_database: Callable[[Cluster], str], tmp_path: Path) -> None:
    toc = assert_read_as_by_pg_restore(postgres, hard_database(postgres), tmp_path)
    assert len(toc.entries) > 1000
    assert toc.server_version.startswith(f"{postgres.major}.")


def test_schemas_with_names_like_parts_of_kinds(
    postgres: Cluster, new_database: Callable[..., str], tmp_path: Path
) -> None:
    toc = assert_read_as_by_pg_restore(postgres, new_database(postgres, FILL), tmp_path)
    found = {(entry.kind, entry.schema, entry.name) for entry in toc.entries}
    assert found >= {
        ("TABLE", "DATA", "orders"),
        ("TABLE DATA", "DATA", "orders"),
        ("SEQUENCE", "OWNED", "BY numbers"),
    }


@pytest.mark.parametrize(
    ("encoding", "raw", "read"),
    [
        ("SQL_ASCII", "e4", "\udce4"),
        ("LATIN1", "e4", "ä"),
        ("EUC_JP", "c9bd", "表"),
        ("UTF8", "f48fbfbf", "\U0010ffff"),
    ],
    ids=["SQL_ASCII", "LATIN1", "EUC_JP", "UTF8"],
)
def test_names_in_each_encoding(
    postgres: Cluster, new_database: Callable[..., str], tmp_path: Path, encoding: str, raw: str, read: str
) -> None:
    fill = f"""
    do $$ declare name text := convert_from('\\x{raw}', '{encoding}'); begin
        execute format('create schema %I', e'DATA \\n"' || name);
        execute format('create table %I.%I (%I int)', e'DATA \\n"' || name, name, 'A b');
    end $$;
    """
    database = new_database(postgres, fill, template="template0", encoding=encoding, locale="C")
    toc = assert_read_as_by_pg_restore(postgres, database, tmp_path)
    (table,) = (entry for entry in toc.entries if entry.kind == "TABLE DATA")
    assert (toc.encoding, table.schema, table.name) == (encoding, f'DATA \n"{read}', read)
