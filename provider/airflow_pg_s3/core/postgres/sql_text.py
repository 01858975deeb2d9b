"""SQL text of PostgreSQL's programs, split into statements and tokens.

The rules are those of https://www.postgresql.org/docs/current/sql-syntax-lexical.html. Text in quotes, in comments
and in bodies of functions is never taken for a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airflow_pg_s3.core.errors import IntegrityError
from airflow_pg_s3.core.postgres.redaction import HIDDEN

_SPECIAL = re.compile(r"""['"$;()]|--|/\*""")
_STRING = re.compile(r"'(?:[^']|'')*'")
_STRING_WITH_ESCAPES = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_NAME = re.compile(r'"(?:[^"]|"")*"')
_DOLLARS = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_LINE_COMMENT = re.compile(r"--.*")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_BARE_WORD = re.compile(r"[^\W\d][\w$]*|\S")
_FUNCTION = re.compile(r"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\s", re.IGNORECASE)
_ATOMIC = re.compile(r"\bBEGIN\s+ATOMIC\b", re.IGNORECASE)
# CASE and END are reserved, so that a column of this name would be quoted. BEGIN is not, but is never nested.
_BLOCK_EDGE = re.compile(r"\b(?:(CASE)|END)\b", re.IGNORECASE)
_META_COMMANDS = re.compile(r"(?:\s*\\.*(?:\n|\Z))+")


def quote(name: bytes) -> bytes:
    """Quote an identifier. In no server encoding is the byte of a quote part of another character."""
    return b'"' + name.replace(b'"', b'""') + b'"'


@dataclass(frozen=True)
class Token:
    """A token of a statement: a word, a quoted name, a string, or another character.

    :param text: the token without its quotes.
    :param quote: ``"`` for a name, ``'`` for a string, ``$`` for a dollar-quoted string, empty for the rest.
    :param depth: number of parentheses around it.
    """

    text: str
    quote: str
    depth: int

    def is_bare(self, *keywords: str) -> bool:
        """True if the token is one of these keywords, given in capitals, without quotes."""
        return not self.quote and self.text.upper() in keywords

    @property
    def is_string(self) -> bool:
        """True if the token is a string, in either kind of quotes."""
        return self.quote in ("'", "$")

    @property
    def sql(self) -> str:
        """The token as SQL that is valid with any ``standard_conforming_strings``."""
        if self.quote == '"':
            return quote_name(self.text)
        if self.quote == "'":
            text = self.text.replace("\\", "\\\\").replace("'", "''")
            return f"E'{text}'" if "\\" in text else f"'{text}'"
        return self.text


def starts_with(tokens: Sequence[Token], *keywords: str) -> bool:
    """True if a statement begins with these keywords and has more tokens."""
    return len(tokens) > len(keywords) and all(t.is_bare(k) for t, k in zip(tokens, keywords, strict=False))


def quote_name(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def redacted_sql(statement: str, tokens: Sequence[Token]) -> str:
    """Return a statement on one line for people, without its strings, any of which may be a password.

    :param tokens: the statement's tokens.
    """
    if any(token.is_string for token in tokens):
        return " ".join(HIDDEN if token.is_string else token.sql for token in tokens)
    return " ".join(statement.split())


def without_strings(script: str, *, backslashes: bool) -> str:
    """Return a script with all strings hidden; everything else stays on its line.

    :param backslashes: as in `split`.
    :raises IntegrityError: as in `split`.
    """
    return "".join(
        HIDDEN + "\n" * piece.count("\n") if kind in ("'", "$") else piece
        for kind, piece in _pieces(script, backslashes)
    )


def split(script: str, *, backslashes: bool = False) -> Iterator[str]:
    """Split a script into statements, without semicolons, comments, and psql's commands between statements.

    :param backslashes: whether backslashes escape in every string (``standard_conforming_strings`` is off), not
        only in ``E''``.
    :raises IntegrityError: the script ends within quotes or a comment.
    """
    statement: list[tuple[str, str]] = []
    depth = 0
    for kind, piece in _pieces(script, backslashes):
        if not statement:
            rest = _META_COMMANDS.sub("", piece, count=1) if kind == "" and _META_COMMANDS.match(piece) else piece
            if not rest.strip() or kind in ("-", ";"):
                continue
            statement.append((kind, rest.lstrip() if kind == "" else rest))
        elif kind == ";" and depth == 0 and not _is_in_body(statement):
            yield "".join(text for _, text in statement).rstrip()
            statement.clear()
            continue
        else:
            statement.append((kind, " " if kind == "-" else piece))
        depth += (kind == "(") - (kind == ")")
    if statement:
        yield "".join(text for _, text in statement).rstrip()


def tokenize(statement: str, *, backslashes: bool = False) -> list[Token]:
    """Split a statement into tokens.

    :param backslashes: as in `split`.
    """
    found: list[Token] = []
    depth = 0
    before = ""
    for kind, piece in _pieces(statement, backslashes):
        if kind in ("(", ")"):
            depth -= kind == ")"
            found.append(Token(piece, "", depth))
            depth += kind == "("
        elif kind == '"':
            found.append(Token(piece[1:-1].replace('""', '"'), '"', depth))
        elif kind == "'":
            text = piece[1:-1].replace("''", "'")
            if backslashes or _ends_with_e(before):
                text = re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
            if _ends_with_e(before):
                found.pop()
            found.append(Token(text, "'", depth))
        elif kind == "$":
            found.append(Token(piece, "$", depth))
        elif kind != "-":
            found += [Token(text, "", depth) for text in _BARE_WORD.findall(piece)]
        before = piece
    return found


def _pieces(script: str, backslashes: bool) -> Iterator[tuple[str, str]]:
    """Split text into quoted pieces, comments (kind ``-``), parentheses, semicolons, and the rest (empty kind)."""
    start = position = 0
    while match := _SPECIAL.search(script, position):
        kind, at = match.group()[0], match.start()
        if kind == "$" and (_is_part_of_name(script[at - 1 : at]) or not _DOLLARS.match(script, at)):
            position = at + 1
            continue
        end = _end_of_piece(script, at, kind, backslashes or _ends_with_e(script[max(at - 2, 0) : at]))
        if at > start:
            yield "", script[start:at]
        yield ("-" if kind == "/" else kind), script[at:end]
        start = position = end
    if start < len(script):
        yield "", script[start:]


def _end_of_piece(script: str, at: int, kind: str, backslashes: bool) -> int:
    if kind in "();":
        return at + 1
    if kind == "/":
        return _end_of_comment(script, at)
    if kind == "$":
        opening = _DOLLARS.match(script, at)
        assert opening is not None
        end = script.find(opening.group(), opening.end())
        if end != -1:
            return end + len(opening.group())
    else:
        string = _STRING_WITH_ESCAPES if backslashes else _STRING
        if match := {"'": string, '"': _NAME, "-": _LINE_COMMENT}[kind].match(script, at):
            return match.end()
    line = script.count("\n", 0, at) + 1
    raise IntegrityError(f"the script ends within what {kind} opens in its line {line}")


def _end_of_comment(script: str, at: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(script, at):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise IntegrityError("the script ends within a comment")


def _is_in_body(statement: list[tuple[str, str]]) -> bool:
    """True if a statement continues after a semicolon, as the body of a function in standard SQL may hold some."""
    if not _FUNCTION.match(statement[0][1]):
        return False
    bare = " ".join(text for kind, text in statement if kind == "")
    if (atomic := _ATOMIC.search(bare)) is None:
        return False
    return 1 + sum(1 if edge.group(1) else -1 for edge in _BLOCK_EDGE.finditer(bare, atomic.end())) > 0


def _is_part_of_name(character: str) -> bool:
    return character == "$" or character.isalnum() or character == "_"


def _ends_with_e(text: str) -> bool:
    """True if a string after this text is an ``E''`` string."""
    return text[-1:] in ("e", "E") and not _is_part_of_name(text[-2:-1])
