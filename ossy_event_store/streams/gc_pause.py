"""
Run Python's garbage collector less often during bulk work.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 50_000  # between two collections


@contextmanager
def fewer_collections() -> Iterator[None]:
    """
    Collect cyclic garbage less often while the block runs.

    Events hold no cycles. Looking for cycles took a seventh of a rebuild's time and
    a fifth of an import's.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < ALLOCATIONS:  # switched off, or raised already
        yield
        return
    gc.set_threshold(ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
