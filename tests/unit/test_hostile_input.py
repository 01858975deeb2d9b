"""Nothing that comes from outside does harm, or ends in anything but our own error (testkit/fuzz_targets.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pg_s3.core.postgres.archive.toc import parse_toc
from testkit.fuzz_targets import SEEDS, TARGETS


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Something well-formed, with a few places overwritten, cut out or filled with something else."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 40))] = draw(st.binary(max_size=40))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_handled(name: str) -> None:
    seeds = SEEDS[name]
    for seed in seeds:
        TARGETS[name](seed)
    if name == "table_of_contents":
        assert [parse_toc(seed).by_id[5].name for seed in seeds[:12]] == ["t"] * 12

    @given(st.binary(max_size=3000) | mutated(seeds))
    def feed(data: bytes) -> None:
        TARGETS[name](data)

    feed()
