"""Results, on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TextIO


def give_up(stream: TextIO) -> None:
    """Write no more to a stream that takes nothing: at its end Python would try to write the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@dataclass(frozen=True)
class Output:
    """Where results go.

    :param is_json: for programs, rather than people.
    """

    stream: TextIO
    is_json: bool

    def write(self, facts: Any, lines: Iterable[str]) -> None:
        """Write a result.

        :param facts: for programs, in plain values.
        :param lines: for people.
        """
        text = json.dumps(facts, indent=2, ensure_ascii=False) if self.is_json else "\n".join(lines)
        if text:
            self.stream.write(text + "\n")
            self.stream.flush()
