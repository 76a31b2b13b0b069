"""The pages of the docs: where they are, their blocks, and how one is run."""

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, its line, and why it is not run."""

    language: str
    text: str
    line: int
    not_run: str | None = None

    @property
    def file(self):
        """The file that the first line names, or None."""
        named = re.match(r"# ([\w/]+\.py)\n", self.text)
        return named and named[1]


_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)[^\n]*\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(page):
    return [
        Block(
            found["language"],
            found["text"],
            page.count("\n", 0, found.start("text")) + 1,
            found["why"],
        )
        for found in _FENCE.finditer(page)
    ]


def commands_of(block):
    """Return pairs of a command line and the output shown below it."""
    if block.language == "sh":
        return [(line, "") for line in block.text.splitlines()]
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [part.partition("\n")[::2] for part in parts]


def is_like(shown, actual):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(shown, actual, flags)


def run(*command, cwd, **env):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
