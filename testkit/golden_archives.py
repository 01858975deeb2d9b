"""Creates the golden archives in tests/golden, with the newest PostgreSQL of each major version.

Run ``python -m testkit.golden_archives``. Each golden archive is a table of contents as pg_dump wrote it, with the
list that pg_restore prints of it, and the entries that we read out of it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from airflow_pg_s3.core.postgres.archive.toc import parse_toc, read_toc
from testkit import postgres as postgres
from testkit.toc_writer import listed

GOLDEN = Path(__file__).parents[1] / "tests/golden"
SQL = """
create role golden_reader;
create schema "DATA";
create table "DATA".orders (id serial primary key, "what ""it"" is" text default 'x;', check (id > 0));
insert into "DATA".orders ("what ""it"" is") values ('a'), ('b');
create table "new
line" (order_id int references "DATA".orders) with (fillfactor = 50);
create index on "DATA".orders ("what ""it"" is");
create view "DATA".few as select * from "DATA".orders limit 1;
create materialized view "DATA".filled as select 1 as one;
create function "DATA".touch() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger touch before update on "DATA".orders for each row execute function "DATA".touch();
create table parts (i int) partition by range (i);
create table part partition of parts for values from (0) to (10);
comment on table "DATA".orders is 'of whom?';
grant select on "DATA".orders to golden_reader;
select lo_from_bytea(4711, 'large');
analyze;
"""


def main() -> None:
    """Create all golden archives."""
    GOLDEN.mkdir(exist_ok=True)
    for major in postgres.installations():
        with postgres.Cluster(major=major) as cluster, tempfile.TemporaryDirectory() as folder:
            cluster.create_database("golden", template="template0", encoding="UTF8", locale="C")
            cluster.psql(SQL, "golden")
            _make(cluster, "directory", Path(folder), f"{major}.directory")
            if major == max(postgres.installations()):
                _make(cluster, "custom", Path(folder), f"{major}.custom")
                _make(cluster, "tar", Path(folder), f"{major}.tar")


def _make(cluster: postgres.Cluster, form: str, folder: Path, name: str) -> None:
    archive = folder / form
    cluster.run("pg_dump", f"--format={form}", f"--file={archive}", dbname="golden")
    file = archive / "toc.dat" if archive.is_dir() else archive
    data = file.read_bytes()
    toc = read_toc(file)
    output = cluster.run("pg_restore", "--list", "--verbose", archive)
    expected = [line for line in output.splitlines() if line and (line[0] != ";" or ";\tdepends on: " in line)]
    assert b"".join(listed(entry, toc.codec) for entry in toc.entries).decode().splitlines() == expected
    # Archives with data are cut after their table of contents.
    least = next(size for size in range(512, len(data) + 1) if _is_enough(data[:size]))
    (GOLDEN / f"{name}.dat").write_bytes(data[:least])
    (GOLDEN / f"{name}.list").write_text("\n".join(expected) + "\n")
    read = {
        "version": toc.version, "database": toc.database, "server_version": toc.server_version,
        "pg_dump_version": toc.pg_dump_version, "encoding": toc.encoding,
        "entries": [entry._asdict() for entry in toc.entries],
    }  # fmt: skip
    (GOLDEN / f"{name}.json").write_text(json.dumps(read, indent=1, default=bytes.decode) + "\n")


def _is_enough(data: bytes) -> bool:
    try:
        parse_toc(data)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main()
