"""A sample leaves out no value that it could hold, is alike in every process, and differs with the seed."""

import itertools

import pytest

from tests.support import sampling

FORMS, JOBS = ["custom", "tar", "plain", "directory"], [1, 2, 3]


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make test` does it."""
    monkeypatch.setattr(sampling, "TORTURE", False)


def with_seed(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple], list[int]]:
    monkeypatch.setattr(sampling, "SEED", f"{seed}")
    return sampling.combine(FORMS, JOBS, name="forms"), list(sampling.sample(range(20), 5, "numbers"))


def test_every_value_of_every_axis_is_in_a_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(50):
        combined, _ = with_seed(seed, monkeypatch)
        assert len(combined) == len(FORMS)
        assert [set(column) for column in zip(*combined, strict=True)] == [set(FORMS), set(JOBS)]


def test_all_is_covered_in_time_and_each_choice_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [with_seed(seed, monkeypatch) for seed in range(50)]
    assert chosen == [with_seed(seed, monkeypatch) for seed in range(50)]
    assert {case for combined, _ in chosen for case in combined} == set(itertools.product(FORMS, JOBS))
    assert {number for _, numbers in chosen for number in numbers} == set(range(20))


def test_torture_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "TORTURE", True)
    combined, numbers = with_seed(0, monkeypatch)
    assert combined == list(itertools.product(FORMS, JOBS))
    assert numbers == list(range(20))
