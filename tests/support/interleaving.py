"""What several processes of pg_restore write to one standard error."""

import itertools
from collections.abc import Iterator


def interleavings(*texts: str, words: str = "error: ") -> Iterator[str]:
    """Yield one message of each process, in every order in which their pieces can be written.

    PostgreSQL's logging.c writes the program's name and a colon, a space, the words, and the text by themselves.
    """
    messages = [[piece for piece in ("pg_restore:", " ", words, text) if piece] for text in texts]
    writers = [number for number, message in enumerate(messages) for _ in message]
    for order in sorted(set(itertools.permutations(writers))):
        left = [iter(message) for message in messages]
        yield "".join(next(left[number]) for number in order)
