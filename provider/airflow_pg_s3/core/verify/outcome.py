"""The outcome of a verification, which depends on whose fault an error is: the backup's, or anything else's.

An error counts against the backup only if it is known to be the backup's fault. All others prove nothing about it:
errors of the server, the machine, a missing right, a library, or anything unforeseen.
"""

from __future__ import annotations

import re

from airflow_pg_s3.core.errors import ClientProgramError, CopyError, IntegrityError
from airflow_pg_s3.core.postgres.server import Server
from airflow_pg_s3.core.repository.verification_record import Difference, Outcome
from airflow_pg_s3.core.search_path import function_without_schemas
from airflow_pg_s3.core.verify.findings import Findings

# The leader's message when a worker has died: it was killed, unless it has printed an error itself.
# (Other workers are then told to end, and print "terminated by user", which does not count as an error.)
_OF_A_LOST_PROCESS = re.compile(r"a worker process died unexpectedly|could not write to the communication channel")
# Errors of pg_restore about the archive. Left out: files that it cannot open or read, which is the worker's fault,
# and versions that it does not know.
_OF_FILES = (
    r"archive items not in correct section order",
    r"corrupt tar header",
    r"could not find (?:block ID|file|header for file) .+ in (?:tar )?archive",
    r"could not read from input file: (?:unexpected )?end of file",
    r"could not uncompress data",
    r"did not find magic string in file header",
    r"entry ID -?\d+ out of range",
    r"found unexpected block ID",
    r"incomplete tar header",
    r"input file (?:is too short|does not appear to be a valid archive)",
    r"invalid (?:OID for|line in) large object",
    r"invalid (?:ENCODING|STDSTRINGS) item",
    r"unexpected (?:COPY statement syntax|data offset flag|section code)",
    r"unrecognized data block type",
)
# The server's errors about rows in a COPY. Left out: duplicate keys and missing referenced rows. A backup's tables
# get keys and foreign keys after their rows; only extensions' tables have them before, and another version of the
# extension comes with other rows.
_OF_ROWS = (
    r"(?:\"[^\"]*\" is |(?:\w+ )+)out of range",
    r"bit string (?:length|too long)",
    r"character with byte sequence",
    r"date/time field value out of range",
    r"domain \S+ does not allow null values",
    r"end-of-copy marker",
    r"extra data after last expected column",
    r"invalid (?:byte sequence for encoding|hexadecimal d|input syntax for type|input value for enum)",
    r"(?:literal|unquoted) (?:newline|carriage return) found in data",
    r"malformed \w+ literal",
    r"missing data for column",
    r"new row for relation \".+\" violates (?:check|partition) constraint",
    r"no partition of relation \".+\" found for row",
    r"null value in column",
    r"numeric field overflow",
    r"value (?:\(not shown\)|for domain|overflows|too long for type)",
)
# The server's errors when constraints are added to loaded rows. These tables belong to no extension.
_OF_CONSTRAINTS = (
    r"(?:check|partition) constraint .*of relation \".+\" is violated by some row",
    r"column \".+\" of (?:relation|table) \".+\" contains (?:null values|values that violate the new constraint)",
    r"could not create (?:unique index|exclusion constraint)",
    r"insert or update on table \".+\" violates foreign key constraint",
    r"updated partition constraint for default partition \".+\" would be violated by some row",
)
_MISSING_RELATION = r"relation \".+\" does not exist"
# Data exceptions and violated constraints, as above. Left out: errors of libxml, which depend on its version,
# errors about settings, duplicate keys, missing referenced rows, and exclusion constraints.
_STATES_OF_ROWS = re.compile(r"22(?!023|00[LMNST]).*|23(?!503|505|P01).*")
# Lost connections, conflicts between sessions, resources, operators' interventions, and the system's own errors.
_STATES_OF_THE_SERVER = ("08", "40", "53", "57", "58", "XX")
_LINE_CHARACTERS = 2000


def judge(findings: Findings, trouble: Exception | None, source: Server) -> tuple[Outcome, str | None]:
    """Return the outcome and, for "could not verify", the reason."""
    if trouble is not None and _is_damage(trouble, findings, source):
        kind, name = "object", "backup"
        if isinstance(trouble, ClientProgramError):
            kind, name = "restore", trouble.program
        elif isinstance(trouble, CopyError):
            kind, name = "restore", trouble.table
        findings.differences.append(Difference(kind=kind, name=name, detail=str(trouble)))
    elif trouble is not None and findings.differences:
        findings.warnings.append(f"the verification was not completed: {trouble}")
    if findings.differences:
        return "failed", None
    if trouble is not None:
        return "could not verify", one_line(str(trouble)) or type(trouble).__name__
    return "verified", None


def _is_damage(trouble: Exception, findings: Findings, source: Server) -> bool:
    """True if the error proves that the backup is damaged."""
    if isinstance(trouble, IntegrityError):
        return True
    if findings.missing_locale is not None:
        # Under another collation than the source's, a row may belong in another partition.
        return False
    if isinstance(trouble, CopyError):
        # The extension's version and settings decide which rows its tables accept.
        return not trouble.is_of_extension and are_rows_at_fault(trouble.sqlstate)
    if not isinstance(trouble, ClientProgramError) or trouble.program != "pg_restore" or trouble.returncode < 0:
        return False
    if function_without_schemas(trouble.stderr_tail) is not None:
        return False
    return is_archive_at_fault(trouble.stderr_tail, like_source=_is_like(source, findings))


def _is_like(source: Server, findings: Findings) -> bool:
    """True if the server is of the source's major version, and the source had no extensions but plpgsql."""
    is_same_major = (findings.server_version or "").split(".")[0] == str(source.version_num // 10000)
    return is_same_major and {extension.name for extension in source.extensions} <= {"plpgsql"}


def one_line(text: str) -> str:
    """Return a text as one line of at most 2,000 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + "…"


def _errors(of_queries: tuple[str, ...]) -> re.Pattern[str]:
    # Matches only where an error begins: what it quotes, such as a function's body, may hold the same words.
    return re.compile(
        r"(?:^|error: |pg_restore:) *"
        f"(?:{'|'.join(_OF_FILES)}"
        f'|COPY failed for table ".*?": ERROR:  (?:{"|".join(_OF_ROWS)})'
        f"|could not execute query: ERROR:  (?:{'|'.join(of_queries)}))",
        re.MULTILINE,
    )


_OF_THE_BACKUP = _errors(_OF_CONSTRAINTS)
_OF_THE_BACKUP_WHERE_LIKE = _errors((*_OF_CONSTRAINTS, _MISSING_RELATION))


def is_archive_at_fault(stderr: str, *, like_source: bool) -> bool:
    """True if what pg_restore wrote to standard error before it exited proves that the archive is damaged.

    All its errors must be about the archive, as one may be the consequence of an earlier one. Workers write in
    pieces (``pg_restore:``, a space, ``error: ``, the rest), which may be interleaved, so errors are only counted.

    :param like_source: whether the server is of the source's major version, and the database has no extensions:
        then a missing relation is one that the archive should have created.
    """
    pattern = _OF_THE_BACKUP_WHERE_LIKE if like_source else _OF_THE_BACKUP
    about_archive = len(pattern.findall(stderr))
    return 0 < about_archive >= stderr.count("error: ") - len(_OF_A_LOST_PROCESS.findall(stderr))


def are_rows_at_fault(sqlstate: str | None) -> bool:
    """True if PostgreSQL refused rows because of their content.

    :param sqlstate: the error's SQLSTATE; None if it has none, as when the connection breaks.
    """
    return sqlstate is not None and _STATES_OF_ROWS.fullmatch(sqlstate) is not None


def is_server_at_fault(sqlstate: str | None) -> bool:
    """True if PostgreSQL failed to execute a query for a reason that has nothing to do with the query.

    :param sqlstate: the error's SQLSTATE; None if it has none, as when the connection breaks.
    """
    return sqlstate is None or sqlstate.startswith(_STATES_OF_THE_SERVER)
