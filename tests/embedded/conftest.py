"""A folder for a server, which ends with its test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossy_event_store.embedded import server as embedded
from tests.support.embedded import (
    is_gone,
    keepers,
    until,
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for a server that ends with its last owner, or with the test."""
    folder = tmp_path / "server"
    yield folder
    embedded.stop(str(folder))
    for pid in keepers(folder):
        os.kill(pid, signal.SIGTERM)
    until(lambda: is_gone(folder))
