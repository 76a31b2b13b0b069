"""
What ``manage.py events`` prints, in three time zones, compared with files.

To renew the files after a change that is meant, and then read their diff:

    RENEW_GOLDEN=1 python -m pytest tests/management/test_events_golden.py
"""

import os
from pathlib import Path

import pytest

from ossy_event_store.documents.catalogue import catalogue, declaration
from tests.support import golden

FOLDER = Path(__file__).parent / "golden"
ZONES = ("Europe/Paris", "Asia/Kathmandu", "America/St_Johns")


@pytest.fixture(autouse=True)
def _declared(monkeypatch):
    """No event type is declared, whatever other tests have imported."""
    empty = declaration.Declarations()
    monkeypatch.setattr(catalogue, "declarations", empty)
    monkeypatch.setattr(declaration, "declarations", empty)


@pytest.mark.parametrize("zone", ZONES)
def test_the_output_is_that_of_the_file(store, history, settings, zone):
    settings.TIME_ZONE = zone
    golden.insert(history)
    file = FOLDER / f"events-{zone.replace('/', '-')}.txt"
    found = golden.transcript()
    if os.environ.get("RENEW_GOLDEN"):
        file.write_text(found, "utf-8")
    assert found == file.read_text("utf-8")


def test_the_files_hold_what_they_should():
    texts = [file.read_text("utf-8") for file in sorted(FOLDER.glob("events-*.txt"))]
    assert len(set(texts)) == len(texts) == len(ZONES)
    for text in texts:
        assert text.count("\n$ events ") + 1 == len(golden.COMMANDS.split("\n")) - 2
        assert {character for character in text if not character.isprintable()} == {
            "\n"
        }
        assert "\\u001b" in text
        assert "Traceback" not in text
