"""To which document of a projection an event belongs. Pure, also for the checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..database import Document
from ..ledger import ACCOUNTS, account

CHAINS, PAGES = "chains", "pages"
LEAVES = 7  # documents of the second projection, and one share that has none


def page(event: Document) -> str | None:
    """Return another key than ``account``, and for some events none."""
    number = event["payload"]["note"] // ACCOUNTS % (LEAVES + 1)
    return f"page {number}" if number < LEAVES else None


KEYS: dict[str, Callable[[Document], Any]] = {CHAINS: account, PAGES: page}
