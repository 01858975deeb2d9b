"""A backup is blamed for what speaks of it, and for nothing else."""

import pytest

from airflow_pg_s3.core.verify.outcome import are_rows_at_fault, is_archive_at_fault, is_server_at_fault
from tests.support.interleaving import interleavings

DIED = "pg_restore: error: a worker process died unexpectedly\n"
CHANNEL = "pg_restore: error: could not write to the communication channel: Broken pipe\n"
TOLD = "pg_restore: terminated by user\n"
MISSING = 'pg_restore: error: could not execute query: ERROR:  relation "parent" does not exist\n'
DAMAGED = "pg_restore: error: could not uncompress data: (null)\n"
FULL = 'pg_restore: error: COPY failed for table "t": ERROR:  could not extend file: No space left on device\n'
BUILT = "DETAIL:  This functionality requires the server to be built with"


def of_query(said: str) -> str:
    return f"pg_restore: error: could not execute query: ERROR:  {said}\nCommand was: CREATE THING x;\n\n"


def of_rows(said: str) -> str:
    return f'pg_restore: error: COPY failed for table "a ""b": ERROR:  {said}\nCONTEXT:  COPY a "b, line 1\n'


SPEAKING = [
    # pg_restore, of files
    *(
        f"pg_restore: error: {said}\n"
        for said in (
            "could not read from input file: end of file",
            "could not read from input file: unexpected end of file",
            "could not uncompress data: incorrect data check",
            "did not find magic string in file header",
            "input file does not appear to be a valid archive (too short?)",
            "entry ID 77 out of range -- perhaps a corrupt TOC",
            "could not find block ID 3342 in archive -- possibly corrupt archive",
            'could not find header for file "3342.dat" in tar archive',
            'invalid line in large object TOC file "/x/blobs.toc": "x"',
            "corrupt tar header found in toc.dat (expected 0, computed 1) file position 512",
        )
    ),
    # the server, of rows; values are left out
    *map(
        of_rows,
        (
            "invalid input syntax for type integer: (not shown)",
            "invalid input value for enum mood: (not shown)",
            "malformed array literal: (not shown)",
            'invalid byte sequence for encoding "UTF8": 0xff',
            'character with byte sequence 0xe2 in encoding "UTF8" has no equivalent in encoding "LATIN1"',
            'missing data for column "b"',
            "extra data after last expected column",
            "literal newline found in data",
            "end-of-copy marker corrupt",
            "date/time field value out of range: (not shown)",
            "integer out of range",
            "value (not shown)",
            "value too long for type character varying(3)",
            "numeric field overflow",
            'new row for relation "t" violates check constraint "never"',
            'value for domain positive violates check constraint "positive_check"',
            'null value in column "i" of relation "t" violates not-null constraint',
            'no partition of relation "p" found for row',
        ),
    ),
    # the server, of rows that are in
    *map(
        of_query,
        (
            'could not create unique index "t_pkey"\nDETAIL:  Key (i)=(not shown) is duplicated.',
            'could not create exclusion constraint "no_overlap"',
            'insert or update on table "child" violates foreign key constraint "child_fkey"',
            'check constraint "never" of relation "t" is violated by some row',
            'partition constraint of relation "p1" is violated by some row',
            'column "i" of relation "t" contains null values',
        ),
    ),
]

SILENT = [
    "",
    TOLD,
    DIED,
    CHANNEL,
    DIED + 3 * TOLD,
    CHANNEL + TOLD,
    FULL,
    FULL + DIED + TOLD,
    FULL + MISSING,
    # the worker's files and programs
    *(
        f"pg_restore: error: {said}\n"
        for said in (
            '"/spool/archive/3342.dat" is not a regular file',
            'could not open input file "/spool/archive/3342.dat": No such file or directory',
            "could not read from input file: Input/output error",
            "unsupported version (1.16) in file header",
            "this build does not support compression with zstd",
            "out of memory",
            "could not create worker process: Resource temporarily unavailable",
            'connection to server at "10.0.0.1", port 5432 failed: Connection refused',
            "nobody has thought of this",
        )
    ),
    *map(
        of_rows,
        (
            "cannot execute COPY FROM in a read-only transaction",
            "server closed the connection unexpectedly",
            "terminating connection due to administrator command",
            "canceling statement due to statement timeout",
            "canceling statement due to conflict with recovery",
            "out of shared memory",
            "compression method lz4 not supported",
            "invalid XML content",
            'permission denied for table "t"',
            'could not extend file "base/1/2": No space left on device',
            "invalid page in block 0 of relation base/1/2",
            # Of an extension's table: the backup's own have no keys yet.
            'duplicate key value violates unique constraint "spatial_ref_sys_pkey"',
            'insert or update on table "t" violates foreign key constraint "k"',
        ),
    ),
    *map(
        of_query,
        (
            "cannot execute CREATE TABLE in a read-only transaction",
            f"compression method lz4 not supported\n{BUILT} lz4 support.",
            f"unsupported XML feature\n{BUILT} libxml support.",
            "ICU is not supported in this build",
            'could not open dictionary file "/share/tsearch_data/x.dict": No such file or directory',
            'could not open affix file "/share/tsearch_data/x.affix": No such file or directory',
            'could not open stop-word file "/share/tsearch_data/x.stop": No such file or directory',
            'could not open thesaurus file "/share/tsearch_data/x.ths": No such file or directory',
            "pg_cron can only be loaded via shared_preload_libraries",
            'unrecognized configuration parameter "cron.database_name"',
            "can only create extension in database postgres",
            'extension "postgis" is not available',
            'could not load library "/lib/postgis-3.so": libgeos_c.so.1: cannot open shared object file',
            'could not access file "$libdir/postgis-3": No such file or directory',
            'could not find function "x" in file "/lib/x.so"',
            "function public.st_area(public.geometry) does not exist",
            'type "public.geometry" does not exist',
            'text search template "public.ispell" does not exist',
            'language "plperl" does not exist',
            'access method "columnar" does not exist',
            'collation "public.de" for encoding "UTF8" does not exist',
            'role "alice" does not exist',
            'tablespace "fast" does not exist',
            'unrecognized parameter "pg_attver"',
            'syntax error at or near "NO"',
            "column s.checkpoints_timed does not exist",
            "must be superuser to create a base type",
            "permission denied for schema pg_catalog",
            "database is not accepting commands that assign new transaction IDs to avoid wraparound data loss",
            "too many clients already",
            "deadlock detected",
            "tuple concurrently updated",
            'duplicate key value violates unique constraint "pg_type_typname_nsp_index"',
        ),
    ),
    # Words of damage that another error quotes
    of_query("permission denied to create event trigger") + "-- did not find magic string in file header\n",
]


@pytest.mark.parametrize("stderr", SPEAKING)
def test_what_only_the_archive_explains_is_its_fault_whatever_other_workers_say(stderr):
    for said in (stderr, stderr + DIED + 3 * TOLD, CHANNEL + stderr):
        assert is_archive_at_fault(said, like_source=False)


@pytest.mark.parametrize("stderr", SILENT)
def test_what_befalls_the_server_the_machine_or_processes_says_nothing_of_the_archive(stderr):
    assert not is_archive_at_fault(stderr, like_source=True)


@pytest.mark.parametrize("stderr", SILENT[6:])
def test_what_follows_another_error_may_be_its_consequence(stderr):
    assert not is_archive_at_fault(stderr + SPEAKING[-1], like_source=True)


def test_a_relation_that_is_missing_is_the_archives_if_nothing_else_could_have_brought_it():
    assert is_archive_at_fault(MISSING + DIED, like_source=True)
    assert not is_archive_at_fault(MISSING + DIED, like_source=False)


def test_pieces_of_lines_that_workers_write_at_the_same_time_are_told_apart():
    died = DIED.removeprefix("pg_restore: error: ")
    for said in interleavings("could not uncompress data\n", died):
        assert is_archive_at_fault(said, like_source=False), said
    for said in interleavings("terminated by user\n", died):
        assert not is_archive_at_fault(said, like_source=True), said


@pytest.mark.parametrize(
    ("sqlstate", "of_rows", "of_server"),
    [
        pytest.param(None, False, True, id="a connection that broke"),
        pytest.param("22P02", True, False, id="invalid input syntax"),
        pytest.param("22P04", True, False, id="missing data for column"),
        pytest.param("22021", True, False, id="invalid byte sequence"),
        pytest.param("22003", True, False, id="out of range"),
        pytest.param("23502", True, False, id="not null"),
        pytest.param("23514", True, False, id="check"),
        pytest.param("23505", False, False, id="duplicate key"),
        pytest.param("23503", False, False, id="foreign key"),
        pytest.param("23P01", False, False, id="overlap"),
        pytest.param("2200N", False, False, id="invalid XML content"),
        pytest.param("22023", False, False, id="invalid value for a parameter"),
        pytest.param("25006", False, False, id="read-only"),
        pytest.param("0A000", False, False, id="a missing build option"),
        pytest.param("42704", False, False, id="an unknown setting"),
        pytest.param("42501", False, False, id="a right"),
        pytest.param("55000", False, False, id="only via shared_preload_libraries"),
        pytest.param("57014", False, True, id="statement timeout"),
        pytest.param("40001", False, True, id="conflict with recovery"),
        pytest.param("53100", False, True, id="disk full"),
        pytest.param("53200", False, True, id="out of memory"),
        pytest.param("58P01", False, True, id="a missing file"),
        pytest.param("08006", False, True, id="connection failure"),
        pytest.param("XX001", False, True, id="a broken page"),
    ],
)
def test_the_same_is_told_by_sqlstate(sqlstate, of_rows, of_server):
    assert are_rows_at_fault(sqlstate) is of_rows
    assert is_server_at_fault(sqlstate) is of_server
