"""The catalogue of the checks."""

import re
from pathlib import Path

import pytest

from ossy_event_store.checks import CATALOGUE

EVENT_TYPES = {"E007", "E008", "E009", "E010", "E011"}

pytestmark = pytest.mark.versions


def test_nothing_that_migrate_repairs_is_an_error():
    errors = {key for key in CATALOGUE if key.startswith("E")}
    # Of the settings and declarations; E005 asks for a decision; E004 does not run
    # with migrate.
    assert errors == {"E001", "E002", "E003", "E005", "E006", *EVENT_TYPES} | {"E004"}


def test_every_id_of_the_catalogue_has_a_test():
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    tests = re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE)
    for key in CATALOGUE:
        assert any(name.startswith(f"test_{key.lower()}_") for name in tests), key
