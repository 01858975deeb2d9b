"""Sweeps: all cases with `make torture`; elsewhere a sample, another one every day."""

import itertools
import os
import random
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

TORTURE = os.environ.get("PG_S3_TORTURE") == "1"
# Kept in the environment, which pytest-xdist's processes inherit: all must choose the same cases, at midnight too.
SEED = os.environ.setdefault("PG_S3_SEED", datetime.now(UTC).date().isoformat())


def sample(cases: Sequence[Any], size: int, *name: str) -> Sequence[Any]:
    """Choose some cases, in their order.

    :param name: of the sweep, so that others choose other cases.
    """
    if TORTURE or len(cases) <= size:
        return cases
    chosen = sorted(random.Random(f"{SEED} {name}").sample(range(len(cases)), size))
    return [cases[number] for number in chosen]


def combine(*axes: Collection[Any], name: str) -> list[tuple[Any, ...]]:
    """Choose as many combinations as the longest axis has values: each value of each axis is in one of them."""
    if TORTURE:
        return list(itertools.product(*axes))
    chance = random.Random(f"{SEED} {name}")
    longest = max(map(len, axes))
    columns = [[value for _, value in zip(range(longest), itertools.cycle(axis), strict=False)] for axis in axes]
    for column in columns:
        chance.shuffle(column)
    return list(zip(*columns, strict=True))
