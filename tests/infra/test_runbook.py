"""What the runbook and the page of the machines tell people to run exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from pedigree import app

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "docs/runbook.md", PROJECT / "infra/README.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def commands() -> set[str]:
    """Each `pedigree …` in backticks or at the beginning of a line of a block, without what is said of it."""
    blocks = [line for block in re.findall(r"```\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", TEXT)
    said = [re.split(r"\s{2,}|\s#", each)[0].strip() for each in [*blocks, *inline]]
    return {each for each in said if each.startswith("pedigree ")}


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_pedigree_command_of_the_runbook_exists(command):
    found: Any = typer.main.get_command(app)
    words = command.split()[1:]
    while words and hasattr(found, "commands"):
        name = words.pop(0)
        assert name in found.commands, command
        found = found.commands[name]
    known = {option for each in found.params for option in [*each.opts, *each.secondary_opts]}
    for word in words:
        assert not word.startswith("--") or word in known, f"{command}: {word}"


def test_every_file_that_the_pages_name_exists():
    named = set(re.findall(r"\b((?:docs|infra|tests|stages)/[\w./-]*\w)", TEXT)) - {"infra/.env"}

    assert named
    for path in named:
        assert (PROJECT / path).exists(), path


def test_the_runbook_has_a_section_for_each_thing_that_happens():
    sections = set(re.findall(r"^## (.*)$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE))

    assert sections >= {
        "Set up", "Upgrade", "Back up", "Restore", "Rotate keys", "A node is lost", "The disk is full",
        "A source has drifted", "A document must go", "A run is stuck", "The store is damaged",
        "A bad version was published",
    }  # fmt: skip
