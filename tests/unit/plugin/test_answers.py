"""Each question is asked once, however many people ask it, and not too many at a time."""

import asyncio
import threading

import pytest

from airflow_pg_s3.plugin import answers as module
from airflow_pg_s3.plugin.answers import Answers, StillWaiting


def test_people_who_ask_the_same_at_the_same_time_get_the_same_answer():
    asked = []
    both_wait = threading.Event()

    def question(name):
        asked.append(name)
        both_wait.wait()
        return name

    async def two():
        answers = Answers()
        waiting = [asyncio.ensure_future(answers.get(question, "a")) for _ in range(2)]
        await asyncio.sleep(0)
        both_wait.set()
        return [value for value, _ in await asyncio.gather(*waiting)]

    assert (asyncio.run(two()), asked) == (["a", "a"], ["a"])


def test_an_error_is_kept_like_an_answer():
    asked = []

    def question():
        asked.append(1)
        raise ValueError("no")

    async def twice():
        answers = Answers()
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                await answers.get(question)

    asyncio.run(twice())
    assert asked == [1]


def test_more_than_can_wait_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    done = threading.Event()

    def question(number):
        done.wait()

    async def three():
        answers = Answers(patience_seconds=0.01)
        for number, reason in enumerate(("not answered", "not answered", "too much")):
            with pytest.raises(StillWaiting, match=reason):
                await answers.get(question, number)
        done.set()

    asyncio.run(three())


def test_few_answers_are_kept(monkeypatch):
    monkeypatch.setattr(module, "_MOST_KEPT", 3)
    asked = []

    async def many():
        answers = Answers()
        for number in (1, 2, 3, 4, 4, 1):
            await answers.get(asked.append, number)

    asyncio.run(many())
    assert asked == [1, 2, 3, 4, 1]
