"""Archives of other tools: pg_dump's formats, bare or compressed, come back whole."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_pg_s3.core.errors import ClientProgramError, IntegrityError, PgS3Error
from airflow_pg_s3.core.postgres import client_versions
from airflow_pg_s3.core.restore.external.psql import open_to
from testkit.database_equality import compare_databases
from testkit.databases import create_hard_roles
from testkit.dumps import COMPRESS, FORMATS, dump
from testkit.postgres import Cluster, all_installations, installations
from testkit.s3 import S3Server
from tests.support.sampling import combine, sample

pytestmark = pytest.mark.parametrize("s3", ["moto"], indirect=True)

# With it, plain dumps can be replayed with the versions of psql that can be had here.
UNSAFE = {"allow_unsafe_psql": True}


def databases(cluster: Cluster) -> set[str]:
    with cluster.connect() as connection:
        return {name for (name,) in connection.execute("select datname from pg_database").fetchall()}


# -- what comes back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "compression", "jobs"),
    sample(
        [("custom", "bare", 3), ("tar", "gzip", 2), ("plain", "zstd", 1), ("directory", "gzip", 3)],
        1,
        "hard archives",
    ),
)
def test_the_hard_database_comes_back_from_every_format(
    pg16: Cluster, hard_archives, portable_hard_database, put, restore, new_name, form, compression, jobs
) -> None:
    target = new_name(pg16, "copy")
    restore(pg16, target, backup=put(COMPRESS[compression](hard_archives(form))), jobs=jobs, **UNSAFE)
    assert compare_databases(pg16.dsn(portable_hard_database(pg16)), pg16.dsn(target)) == []


@pytest.mark.parametrize(("form", "compression"), combine(FORMATS, COMPRESS, name="every wrapping"))
def test_every_format_comes_back_in_every_wrapping(
    pg16: Cluster, small, put, restore, new_name, form: str, compression: str
) -> None:
    archive = small.archive(form)
    target = new_name(pg16, "copy")
    done = restore(pg16, target, backup=put(COMPRESS[compression](archive), "a/b.bin"), **UNSAFE)
    assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []
    assert set(done) == {
        "uri", "database", "backup_id", "tables", "rows", "raw_bytes", "duration_seconds", "previous_database",
        "warnings",
    }  # fmt: skip
    assert (done["database"], done["backup_id"], done["previous_database"]) == (target, "b.bin", None)
    assert (done["tables"] is None) == (form == "plain")
    # Of a tar, its headers are not fed to pg_restore when it holds a directory.
    assert 0.9 * len(archive) < done["raw_bytes"] <= len(archive)


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("form", ["custom", "directory"])
def test_jobs_do_not_matter_to_what_comes_back(
    pg16: Cluster, small, put, restore, new_name, form: str, jobs: int
) -> None:
    target = new_name(pg16, "copy")
    restore(pg16, target, backup=put(small.archive(form)), jobs=jobs)
    assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_custom_archive_that_was_piped_comes_back(
    pg16: Cluster, small, put, restore, new_name, jobs: int
) -> None:
    # Written to a pipe, it does not say where its tables begin.
    argv = [str(pg16.pg_bin / "pg_dump"), "-Fc"]
    piped = subprocess.run(argv, env=pg16.client_env(small.name), check=True, capture_output=True).stdout
    target = new_name(pg16, "copy")
    restore(pg16, target, backup=put(piped), jobs=jobs)
    assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []


@pytest.mark.parametrize(
    ("form", "majors_and_client"),
    sample(
        combine(
            FORMATS,
            # A pg_dump older than its server's minor writes what restores nowhere: of 15, its own is taken.
            [((14, 14), 18), ((14, 16), 18), ((15, 15), 15), ((15, 18), 15), ((16, 18), 18), ((18, 18), 18)],
            name="newer pg_dump",
        ),
        3,
        "newer pg_dump",
    ),
    ids=str,
)
def test_a_newer_pg_dump_and_newer_servers(
    cluster_of,
    small,
    new_database,
    new_name,
    put,
    restore,
    tmp_path: Path,
    form: str,
    majors_and_client: tuple[tuple[int, int], int],
) -> None:
    majors, client = majors_and_client
    source, target = (cluster_of(major) for major in majors)
    name = new_database(source, small.sql, name="old")
    archive = dump(source, name, form, tmp_path, major=client)
    copy = new_name(target, "copy")
    restore(target, copy, backup=put(archive), **UNSAFE)
    assert compare_databases(source.dsn(name), target.dsn(copy)) == []


@pytest.mark.parametrize("subfolder", ["", "my/subfolder/"])
def test_the_dumps_of_the_seed_system_come_back(
    pg16: Cluster, small, s3: S3Server, bucket, list_backups, restore, new_name, tmp_path: Path, subfolder: str
) -> None:
    """Made by the very command line of that system, with its names."""
    for name in ("backup-2026-01-30T05-00-00-000Z", "backup-2026-01-31T05-00-00-000Z"):
        url = f"--dbname=postgresql://{pg16.user}@{pg16.host}:{pg16.port}/{small.name.replace(' ', '%20')}"
        subprocess.run(
            f"{pg16.pg_bin}/pg_dump {url} --format=tar | gzip > {tmp_path}/{name}.tar.gz",
            shell=True,
            check=True,
            env=pg16.client_env(),
        )
        s3.client().upload_file(f"{tmp_path}/{name}.tar.gz", bucket, f"{subfolder}{name}.tar.gz")
        pg16.psql("insert into accounts select max(id) + 1 from accounts", small.name)
    pg16.psql("delete from accounts where id > 20001", small.name)
    repository = f"s3://{bucket}/{subfolder}"
    newest = list_backups(repository=repository, pattern="*.tar.gz")[0]
    assert newest["uri"] == f"{repository}backup-2026-01-31T05-00-00-000Z.tar.gz"
    target = new_name(pg16, "copy")
    done = restore(pg16, target, backup=newest["uri"])
    assert done["backup_id"] == "backup-2026-01-31T05-00-00-000Z.tar.gz"
    assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []


@pytest.mark.parametrize("layout", sample(["flat", "dot", "toc first", "pax"], 2, "layouts"))
def test_a_tar_of_a_directory_may_be_packed_in_any_way(
    pg16: Cluster, small, put, restore, new_name, tmp_path: Path, layout: str
) -> None:
    folder = tmp_path / "directory.dump"
    pg16.run("pg_dump", "-Fd", "-f", folder, dbname=small.name)
    (folder / "README").write_text("not of pg_dump")
    names = sorted(path.name for path in folder.iterdir())
    commands = {
        "flat": ["tar", "czf", "-", "-C", folder, *names],
        "dot": ["tar", "czf", "-", "-C", folder, "."],
        "toc first": ["tar", "czf", "-", "-C", folder, "toc.dat", *(name for name in names if name != "toc.dat")],
        "pax": ["tar", "--format=pax", "-czf", "-", "-C", tmp_path, folder.name],
    }
    packed = subprocess.run(commands[layout], check=True, capture_output=True).stdout
    target = new_name(pg16, "copy")
    restore(pg16, target, backup=put(packed))
    assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []


def test_several_members_and_frames_in_a_row_are_one_archive(pg16: Cluster, small, put, restore, new_name) -> None:
    archive = small.archive("custom")
    for compress, padding in ((COMPRESS["gzip"], b"\0" * 512), (COMPRESS["zstd"], b"")):
        target = new_name(pg16, "copy")
        restore(pg16, target, backup=put(compress(archive[:1000]) + compress(archive[1000:]) + padding))
        assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []


@pytest.mark.parametrize("command", ["zstd --ultra --long=31", "pzstd -p 2"])
def test_what_zstd_and_its_kin_write_comes_back(
    pg16: Cluster, small, put, restore, new_name, command: str
) -> None:
    program, *options = command.split()
    if shutil.which(program) is None:
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {program} is missing")
        pytest.skip(f"{program} is missing")
    # From a pipe: the size is not known, so that the window is not made smaller.
    done = subprocess.run(
        [program, *options, "-c"], input=small.archive("custom"), stdout=subprocess.PIPE, check=True
    )
    target = new_name(pg16, "copy")
    restore(pg16, target, backup=put(done.stdout))
    assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []


def test_the_database_gets_the_encoding_and_locale_of_the_archive(
    pg16: Cluster, new_database, put, restore, new_name, tmp_path: Path
) -> None:
    source = new_database(
        pg16, "create table t as select chr(233)", template="template0", encoding="LATIN1", locale="C"
    )
    for form in ("custom", "tar", "directory"):
        target = new_name(pg16, "copy")
        restore(pg16, target, backup=put(dump(pg16, source, form, tmp_path)))
        assert compare_databases(pg16.dsn(source), pg16.dsn(target)) == []
    # A plain dump does not say: the server's own, into which the text is converted.
    target = new_name(pg16, "copy")
    restore(pg16, target, backup=put(dump(pg16, source, "plain", tmp_path)), **UNSAFE)
    assert pg16.psql("select * from t; show server_encoding", target).split() == ["é", "UTF8"]


# -- if_exists ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_replace_swaps_the_databases(
    pg16: Cluster, small, put, restore, new_database, new_name, form: str
) -> None:
    live = new_database(pg16, "create table old (i int)", name="live")
    done = restore(pg16, live, backup=put(small.archive(form)), if_exists="replace", **UNSAFE)
    try:
        assert compare_databases(pg16.dsn(small.name), pg16.dsn(live)) == []
        assert pg16.psql("select count(*) from old", done["previous_database"]).strip() == "0"
    finally:
        pg16.drop_database(done["previous_database"])


@pytest.mark.parametrize("jobs", [1, 2])
def test_clean_drops_what_the_archive_holds(pg16: Cluster, small, put, restore, new_database, jobs: int) -> None:
    target = new_database(pg16, small.sql + "delete from accounts; create table kept as select 1;")
    restore(pg16, target, backup=put(small.archive("custom")), if_exists="clean", jobs=jobs)
    assert pg16.psql("select count(*) from accounts; select * from kept", target).split() == ["20000", "1"]


def test_clean_in_one_job_is_all_or_nothing(pg16: Cluster, small, put, restore, new_database) -> None:
    target = new_database(pg16, "create table accounts (id int); insert into accounts values (7)")
    archive = small.archive("custom")
    with pytest.raises((ClientProgramError, IntegrityError)):
        restore(pg16, target, backup=put(archive[:-500]), if_exists="clean", jobs=1)
    assert pg16.psql("select * from accounts", target).strip() == "7"


@pytest.mark.parametrize("form", FORMATS)
def test_a_database_that_holds_something_is_refused(
    pg16: Cluster, small, put, restore, new_database, form: str
) -> None:
    target = new_database(pg16, "create table mine (i int)")
    with pytest.raises(AirflowFailException, match=r"table public.mine"):
        restore(pg16, target, backup=put(small.archive(form)), **UNSAFE)


def test_what_a_plain_dump_cannot_do_is_refused(pg16: Cluster, small, put, restore, new_name) -> None:
    uri = put(small.archive("plain"))
    for arguments, message in (
        ({"if_exists": "clean"}, "if_exists"),
        ({"tables": ["accounts"]}, "selected only of backups"),
        ({"pg_restore_options": ["--no-owner"]}, "pg_restore_options"),
    ):
        with pytest.raises(AirflowFailException, match=message):
            restore(pg16, new_name(pg16), backup=uri, **UNSAFE, **arguments)
    with pytest.raises(AirflowFailException, match="pg_dump --create"):
        restore(pg16, new_name(pg16), backup=put(small.archive("plain", "--create")), **UNSAFE)


def test_options_and_commands_reach_the_restore(
    pg16: Cluster, small, put, restore, new_name, tmp_path: Path
) -> None:
    pg16.psql("comment on table accounts is 'not wanted'", small.name)
    target = new_name(pg16, "copy")
    restore(
        pg16,
        target,
        backup=put(dump(pg16, small.name, "custom", tmp_path)),
        pg_restore_options=["--no-comments"],
        post_restore_sql="insert into empty values (42)",
    )
    found = pg16.psql("select count(*), obj_description('accounts'::regclass) is null from accounts", target)
    assert found.split() == ["20000|t"]
    assert pg16.psql("select * from empty", target).split() == ["42"]


@pytest.mark.parametrize("form", ["custom", "plain"])
def test_commands_come_before_the_restore(pg16: Cluster, small, put, restore, new_name, form: str) -> None:
    target = new_name(pg16, "copy")
    first = "create table first as select to_regclass('public.accounts') is null as it_was"
    restore(pg16, target, backup=put(small.archive(form)), pre_restore_sql=first, **UNSAFE)
    assert pg16.psql("select it_was, to_regclass('accounts') from first", target).strip() == "t|accounts"


def test_an_older_server_and_an_older_pg_restore_are_refused(
    pg15: Cluster, pg16: Cluster, small, put, restore, new_name, connections, tmp_path: Path
) -> None:
    for form in FORMATS:
        with pytest.raises(AirflowFailException, match="PostgreSQL 15, older than the source's 16"):
            restore(pg15, new_name(pg15), backup=put(small.archive(form)), **UNSAFE)
    archive = put(dump(pg16, small.name, "custom", tmp_path, major=18))
    connections.set_option("client_path", str(installations()[16]))
    with pytest.raises(AirflowFailException, match=r"format 1.16 .* pg_restore 17 or newer.*postgresql-client-17"):
        restore(pg16, new_name(pg16), backup=archive)


# -- psql ---------------------------------------------------------------------------------------------------------


def test_a_psql_that_runs_what_a_dump_hides_is_refused(
    pg16: Cluster, small, put, restore, new_name, connections, monkeypatch
) -> None:
    open_to_it = [each for each in all_installations() if open_to(each.version) == ["CVE-2026-18408"]]
    connections.set_option("client_path", str(open_to_it[0].folder))  # the wheel's 16.14, whatever else is here
    monkeypatch.setattr(client_versions, "STANDARD_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    target = new_name(pg16)
    with pytest.raises(AirflowFailException, match=r"CVE-2026-18408.*allow_unsafe_psql=True"):
        restore(pg16, target, backup=put(small.archive("plain")))
    assert target not in databases(pg16)


@pytest.mark.parametrize("command", [r"\! touch {}", r"\o {}", r"\copy accounts to '{}'", r"\q"])
def test_a_dump_without_restrict_cannot_run_meta_commands(
    pg16: Cluster, small, put, restore, new_name, tmp_path: Path, command: str
) -> None:
    lines = small.archive("plain").splitlines(keepends=True)
    lines = [line for line in lines if not line.startswith((b"\\restrict", b"\\unrestrict"))]
    victim = tmp_path / "victim"
    middle = lines.index(b"\\.\n") + 1
    script = b"".join([*lines[:middle], command.format(victim).encode() + b"\n", *lines[middle:]])
    target = new_name(pg16)
    with pytest.raises(ClientProgramError, match="restricted"):
        restore(pg16, target, backup=put(script), **UNSAFE)
    assert not victim.exists()
    assert target not in databases(pg16)
    # Without the command, the same script is fine.
    restore(pg16, target, backup=put(b"".join(lines)), **UNSAFE)
    assert compare_databases(pg16.dsn(small.name), pg16.dsn(target)) == []


def test_a_script_that_ends_psql_early_has_not_been_restored(pg16: Cluster, small, put, restore, new_name) -> None:
    script = small.archive("plain")
    key = next(line for line in script.splitlines() if line.startswith(b"\\restrict ")).split()[1]
    for meta in (b"\\unrestrict " + key + b"\n\\q\n", b"\\unrestrict " + key + b"\n\\i /dev/null\n\\q\n"):
        where = script.index(b"\\.\n") + 3
        target = new_name(pg16)
        with pytest.raises(PgS3Error, match="before the dump's end"):
            restore(pg16, target, backup=put(script[:where] + meta + script[where:]), **UNSAFE)
        assert target not in databases(pg16)


def test_a_script_that_fails_leaves_nothing(pg16: Cluster, small, put, restore, new_database) -> None:
    target = new_database(pg16)  # there, and empty
    script = small.archive("plain").replace(b"CREATE INDEX", b"CREATE NONSENSE")
    with pytest.raises(ClientProgramError, match="NONSENSE"):
        restore(pg16, target, backup=put(script), **UNSAFE)
    assert pg16.psql("select count(*) from pg_class where relnamespace = 'public'::regnamespace", target) == "0\n"


def test_roles_that_are_missing_fail_the_restore(
    pg16: Cluster, pg18: Cluster, small, put, restore, new_name, tmp_path: Path
) -> None:
    create_hard_roles(pg16)
    pg16.psql("create role only_here; alter table accounts owner to only_here", small.name)
    try:
        for form in FORMATS:
            target = new_name(pg18)
            # What psql replays is not looked into before.
            with pytest.raises(ClientProgramError if form == "plain" else AirflowFailException, match="only_here"):
                restore(pg18, target, backup=put(dump(pg16, small.name, form, tmp_path)), **UNSAFE)
            assert target not in databases(pg18)
    finally:
        pg16.psql("alter table accounts owner to postgres; drop role only_here", small.name)
