"""Failures to connect that no retry can change: refusals by a server, a pooler or libpq."""

from __future__ import annotations

import re

# At login libpq gives a message without a SQLSTATE. Each phrase (a regular expression) comes with advice, unless
# it needs none.
_PHRASES_OF_SERVERS = {
    "password authentication failed": "correct the connection's login and password",
    "Peer authentication failed": "",
    "Ident authentication failed": "",
    "certificate authentication failed": "",
    "GSSAPI authentication failed": "",
    "no pg_hba.conf entry": "allow it in the server's pg_hba.conf",
    "pg_hba.conf rejects connection": "allow it in the server's pg_hba.conf",
    r'database ".*" does not exist': "check the database's name",
    r'role ".*" does not exist': "check the user's name",
    "permission denied for database": "",
    "is not currently accepting connections": "",
    "is not permitted to log in": "",
    "valid client certificate": "",
    "unrecognized configuration parameter": "correct the connection's options",
    "permission denied to set parameter": "correct the connection's options",
    "invalid value for parameter": "correct the connection's options",
    # Messages of PgBouncer, Supabase and RDS Proxy.
    "SASL authentication failed": "",
    "no such user": "",
    "no such database": "",
    "unsupported startup parameter": "connect to the server itself, or have the pooler ignore that parameter",
    "Tenant or user not found": "a shared pooler wants user names such as postgres.<project>",
    "tenant/user": "a shared pooler wants user names such as postgres.<project>",
    "requires TLS connections": "set the connection's sslmode to require, or stricter",
}
_PHRASES_OF_LIBPQ = {
    "does not support SSL": "enable it on the server, or give the connection another sslmode",
    "no password supplied": "give the connection a password",
    "certificate verify failed": "correct the connection's sslrootcert, or the server's certificate",
    "does not match host name": "",
    "root certificate file": "",
    "private key file": "",
    "could not read certificate file": "",
    "authentication method requirement": "",
    "channel binding required": "",
    "GSSAPI encryption required": "",
    "local user with ID": "give the connection a login",
}
# Failures that a retry may mend, but more often a correction does.
_PHRASES_OF_UNREACHABLE = {
    "could not translate host name|failed to resolve host": "check the host's name",
    "Connection refused|No such file or directory|No route to host|Network is unreachable|timeout": (
        "check host and port, and that the server is running"
    ),
}
_PHRASES_WITHOUT_HOST = {
    "No such file or directory": "the connection names no host: give it one, or start the server of this machine"
}
_OWN_WORDS = re.compile(r"^(?:connection (?:failed|is bad): )+")
_WHERE = re.compile(r"connection to server (?:at|on socket) \".*?\"(?: \(.*?\))?(?:, port \d+)? failed: ")
_HINT = re.compile(r"\s*Is the server running[^?]*\?")
_ATTEMPT = re.compile(r"^- (host: .*?, port: .*?), hostaddr: ", re.MULTILINE)


def refusal(message: str) -> str | None:
    """Return the message of a permanent refusal, with advice; None if a retry may help.

    :param message: psycopg's message of a failure to connect. With several hosts, each must have refused.
    """
    text = message.strip()
    first, *attempts = _ATTEMPT.split(text)
    hosts: dict[str, str] = {}
    for host, words in zip(attempts[::2], attempts[1::2], strict=True):
        hosts[host] = hosts.get(host, "") + words
    advice = [_advice(words) for words in hosts.values() or [first]]
    if None in advice:
        return None
    return "; ".join([_in_short(text), *dict.fromkeys(filter(None, advice))])


def unreachable(message: str, *, names_host: bool = True) -> str:
    """Return the message of a failure to connect that a retry may mend, on one line, with advice.

    :param message: psycopg's message.
    :param names_host: whether the connection names a host; if not, libpq has tried a local socket.
    """
    phrases = _PHRASES_OF_UNREACHABLE if names_host else _PHRASES_WITHOUT_HOST | _PHRASES_OF_UNREACHABLE
    advice = [advice for phrase, advice in phrases.items() if re.search(phrase, message)]
    return "; ".join([_in_short(message.strip()), *advice[:1]])


def _in_short(text: str) -> str:
    """Leave out what the endpoint says already, unless the attempts at several addresses differ."""
    text = _HINT.sub("", _OWN_WORDS.sub("", text))
    attempts = _WHERE.findall(text)
    if len(set(attempts)) == 1 and not _ATTEMPT.search(text):
        # The same address is tried with and without encryption.
        text = "; ".join(words.strip() for words in text.split(attempts[0]) if words.strip())
    return re.sub(r"\n\s*(?=- host: |connection to server )", "; ", text)


def _advice(text: str) -> str | None:
    phrases = _PHRASES_OF_LIBPQ | (_PHRASES_OF_SERVERS if "FATAL" in text else {})
    # libpq itself refuses an invalid value, such as an unknown sslmode, before it connects.
    if text.startswith("connection is bad: ") and "invalid " in text:
        return ""
    return next((advice for phrase, advice in phrases.items() if re.search(phrase, text, re.DOTALL)), None)
