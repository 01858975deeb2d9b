import pytest

from airflow_pg_s3.core.blame import is_the_archives_fault

DIED = "pg_restore: error: a worker process died unexpectedly\n"
CHANNEL = "pg_restore: error: could not write to the communication channel: Broken pipe\n"
TOLD = "pg_restore: terminated by user\n"
MISSING = 'pg_restore: error: could not execute query: ERROR:  relation "parent" does not exist\n'
DAMAGED = "pg_restore: error: could not uncompress data: (null)\n"
FULL = 'pg_restore: error: COPY failed for table "t": ERROR:  could not extend file: No space left on device\n'


@pytest.mark.parametrize(
    "stderr",
    [DIED, CHANNEL, DIED + 3 * TOLD, CHANNEL + TOLD, TOLD, "", FULL, FULL + DIED + TOLD, FULL + MISSING],
)
def test_what_befalls_processes_or_the_server_says_nothing_of_the_archive(stderr):
    assert not is_the_archives_fault(stderr)


@pytest.mark.parametrize("stderr", [MISSING, DAMAGED, DAMAGED + DIED, MISSING + DIED + 3 * TOLD])
def test_an_error_that_only_the_archive_explains_is_its_fault_whatever_other_workers_say(stderr):
    assert is_the_archives_fault(stderr)


def test_pieces_of_lines_that_workers_write_at_the_same_time_are_told_apart():
    assert is_the_archives_fault("pg_restore: pg_restore: error: error: could not uncompress data\n" + DIED[19:])
    assert not is_the_archives_fault("pg_restore: pg_restore: error: terminated by user\n" + DIED[19:])
