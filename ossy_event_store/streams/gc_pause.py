"""
Python's collector of cyclic garbage, while documents come by the hundred thousand.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 50_000  # between two looks for cyclic garbage


@contextmanager
def fewer_collections() -> Iterator[None]:
    """
    Look for cyclic garbage less often meanwhile.

    Events hold no cycles; to look for some again and again took a seventh of a
    rebuild's time, and a fifth of an import's.
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
