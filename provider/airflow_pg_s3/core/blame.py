"""Tells from pg_restore's own words whether an archive is at fault, or what it was to be restored with."""

from __future__ import annotations

import re

# The leader says so when it has lost a worker: one that was killed if nobody says more, else one that said why.
# (Then others are told to end, and say "terminated by user", which is no error of theirs.)
_OF_A_LOST_PROCESS = re.compile(r"a worker process died unexpectedly|could not write to the communication channel")
# The server, the machine or the role is not up to it. All else is the archive's fault.
_OF_OTHERS = re.compile(
    "|".join(
        (
            r"No space left on device",
            r"out of memory",
            r"out of shared memory",
            r"could not create (?:communication channels|worker process)",
            r"too many clients already",
            r"remaining connection slots",
            r"could not (?:connect|receive data|send data)",
            r"connection to (?:server|client)",
            r"server closed the connection",
            r"terminating connection",
            r"no connection to the server",
            r"SSL (?:connection|SYSCALL)",
            r"the database system is",
            r"canceling statement",
            r"permission denied",
            r"must be (?:superuser|owner|member|able)",
            r"role \"?.+\"? does not exist",
            r"extension \".+\" (?:is not available|is not allowed|must be)",
            r"could not open extension control file",
            r"could not access file",
            r"could not load library",
            r"is not supported (?:in|by) this build",
            r"collation \".+\" for encoding \".+\" does not exist",
            r"could not create locale",
            r"tablespace \".+\" does not exist",
        )
    )
)


def is_the_archives_fault(stderr: str) -> bool:
    """Whether an archive cannot be restored, by what pg_restore wrote to standard error before it exited.

    Workers write in pieces (``pg_restore: ``, ``error: ``, the rest), which may be mixed: so errors are counted.
    """
    errors = stderr.count("error: ")
    return errors > len(_OF_A_LOST_PROCESS.findall(stderr)) and _OF_OTHERS.search(stderr) is None
