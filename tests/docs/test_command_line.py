"""docs/command-line.md has every command and option, as --help says it."""

import argparse
import re
from pathlib import Path

import pytest

from airflow_pg_s3.cli.parser import build_parser

DOCUMENT = (Path(__file__).parents[2] / "docs/command-line.md").read_text()
COMMON = ("S3", "output", "this machine")


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return action.choices


def rows(command: argparse.ArgumentParser, *, common: bool) -> list[str]:
    """The lines of the table of its arguments, or of those that several commands have."""
    return [
        f"| `{name(action)}` | {str(action.help).replace('|', '&#124;')} |"
        for group in command._action_groups
        if (group.title in COMMON) == common
        for action in group._group_actions
        if action.help and action.dest != "help"
    ]


def name(action: argparse.Action) -> str:
    value = f" {action.metavar or '|'.join(action.choices or ())}" if action.nargs != 0 else ""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return ", ".join(action.option_strings) + value.replace("|", "\\|")


def section(title: str) -> str:
    match = re.search(rf"^### {title}\n(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match, title
    return match[1]


@pytest.mark.parametrize("command", sorted(commands()))
def test_a_command_has_a_section_with_an_example_and_its_options(command):
    text = section(f"pg-s3 {command}")
    assert re.search(rf"^    pg-s3 {command} ", text, re.MULTILINE)
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows(
        commands()[command], common=False
    )


def test_the_options_of_several_commands_stand_in_one_place():
    expected = {row: None for command in commands().values() for row in rows(command, common=True)}
    text = section("Options of several commands")
    assert sorted(line for line in text.splitlines() if line.startswith("| `")) == sorted(expected)
