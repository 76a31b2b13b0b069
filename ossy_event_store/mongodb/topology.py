"""What a server says of the set that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_standalone(hello: Mapping[str, Any]) -> bool:
    """
    Whether a server is alone: it then has neither change streams nor transactions.

    Args:
        hello: its answer to the command ``hello``.
    """
    return "setName" not in hello and hello.get("msg") != "isdbgrid"
