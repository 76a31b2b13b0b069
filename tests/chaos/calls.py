"""
One way to call both faces, so that writers and readers are written once.

As in the library itself: a blocking call never suspends, so ``drive`` runs a whole
coroutine of them without an event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol


class Call(Protocol):
    async def __call__(self, method: Any, *args: Any, **options: Any) -> Any: ...
    async def pause(self, seconds: float) -> None: ...


class BlockingCall:
    async def __call__(self, method: Any, *args: Any, **options: Any) -> Any:
        return method(*args, **options)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this face blocks


class AwaitableCall:
    async def __call__(self, method: Any, *args: Any, **options: Any) -> Any:
        twin = getattr(method.__self__, f"a{method.__name__}")
        return await twin(*args, **options)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
