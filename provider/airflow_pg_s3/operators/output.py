"""What a task returns, as an argument of other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow.sdk import XComArg
from airflow.sdk.definitions.xcom_arg import PlainXComArg


class Output(PlainXComArg):
    """Reference to what a task returns; its items are references as well: ``output[0]["uri"]``.

    Airflow itself would look for an XCom with the key ``uri``, which no task of ours stores.
    """

    def __getitem__(self, key: int | str) -> _Item:
        return _Item(self, key)


class _Item(XComArg):
    """Reference to an item of what a task returns."""

    def __init__(self, whole: XComArg, key: int | str) -> None:
        self._whole = whole
        self._key = key

    def __getitem__(self, key: int | str) -> _Item:
        return _Item(self, key)

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a reference to an item of what a task returns cannot be iterated over")

    def __str__(self) -> str:
        """Return a template with the same value, for f-strings; Airflow stores it with the DAG."""
        return f"{str(self._whole).removesuffix(' }}')}[{self._key!r}] }}}}"

    def iter_references(self) -> Iterator[Any]:
        """Yield the task, so that Airflow runs it first."""
        yield from self._whole.iter_references()

    def resolve(self, context: Mapping[str, Any]) -> Any:
        """Return the item, when the task has run."""
        return self._whole.resolve(context)[self._key]
