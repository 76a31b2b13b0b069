"""Commands of manage.py as a test runs them: what they print and how they fail."""

import io

import pytest
from django.core.management import CommandError, call_command


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


class Stops(io.StringIO):
    """A stream that raises an error after some lines."""

    def __init__(self, lines, error=KeyboardInterrupt):
        super().__init__()
        self.left, self.error = lines, error

    def write(self, text):
        if self.left == 0:
            raise self.error
        self.left -= text.count("\n")
        return super().write(text)

    def flush(self):
        if self.left == 0:
            raise self.error


class Standard:
    """A standard stream over bytes, as ``sys.stdin`` and ``sys.stdout`` are."""

    def __new__(cls, content=b""):
        return io.TextIOWrapper(io.BytesIO(content), encoding="ascii")


def run(*args, **options):
    """Run a command and return what it wrote to stdout and to stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command(*args, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def failure(*args, **options):
    """Run a command that fails, and return its error."""
    with pytest.raises(CommandError) as caught:
        run(*args, **options)
    return caught.value
