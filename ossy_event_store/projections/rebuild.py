"""
Rebuild a projection: in place, or beside the one in use, which it then replaces.

A build is a subscription like any other, with its own checkpoint: an interrupted build
resumes, and it can be monitored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pymongo.errors import PyMongoError

from ..exceptions import BuiltMeanwhile, StoreUnavailable
from ..mongodb import connection
from ..mongodb.deadline import in_time
from ..mongodb.ports import drive
from ..subscriptions import checkpoints
from ..subscriptions.declaration import Subscription, registered_subscriptions
from ..subscriptions.runner import Runner, UntilCaughtUp, assign_positions
from .builds import (
    begin_build,
    begin_in_place,
    find_document,
    switch,
)
from .generations import build_name, collection_name, drop_collection, in_use
from .projection import BUILD_KIND, Projection
from .writer import Writer

Progress = Callable[[int, int], None]  # the position reached, and the last one


@dataclass(frozen=True)
class Built:
    """A projection that was rebuilt."""

    name: str
    #: The generation that is in use now.
    generation: int
    #: The position up to which it was built when it came into use.
    position: int
    #: Streams that are parked since an event could not be applied.
    parked: int


class Rebuild:
    """
    Rebuilds one projection.

    Args:
        cls: the projection, which is registered.
        beside: build it beside the one in use, and switch once it has caught up.
        progress: called now and then with the position reached and the last one.
    """

    def __init__(
        self, cls: type[Projection], *, beside: bool, progress: Progress | None = None
    ) -> None:
        self._cls = cls
        self._beside = beside
        self._progress = progress
        self._runner: Runner | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Interrupt it; what is built is kept, and a build beside resumes next time."""
        self._is_stopped = True
        if self._runner is not None:
            self._runner.stop.set()

    def run(self) -> Built | None:
        """Rebuild; return None if it was interrupted."""
        store = connection.blocking()
        declared = registered_subscriptions()[self._cls.name]
        drive(
            checkpoints.find_or_create(
                store,
                declared.name,
                declared.start,
                declared.kind,
                **declared.document_fields(),
            )
        )
        if self._beside:
            number = drive(begin_build(store, self._cls))
            if not self._catch_up(self._build(number)):
                return None
            position = drive(switch(store, self._cls, number))
        else:
            number = drive(begin_in_place(store, self._cls))
            switched_at = time.monotonic()
            if not self._catch_up(declared):
                return None
            # A reader may have looked up the old generation just before the switch.
            unread_at = switched_at + in_use.fresh_seconds
            time.sleep(max(0.0, unread_at - time.monotonic()))
            drop_old(self._cls, number)
            position = drive(find_document(store, self._cls.name))["position"]
        with in_time():
            parked = drive(
                store.parked.count_where({"subscription": {"$eq": self._cls.name}})
            )
        return Built(self._cls.name, number, position, parked)

    def _build(self, number: int) -> Subscription:
        """Return the subscription that builds a generation."""
        declared = registered_subscriptions()[self._cls.name]
        return Subscription(
            build_name(declared.name, number),
            self._cls,
            types=declared.types,
            aggregate_types=declared.aggregate_types,
            tags=declared.tags,
            kind=BUILD_KIND,
            delivery=partial(Writer, generation=number),
            # After the switch its document is gone, and no process may make it again.
            creates_document=False,
        )

    def _catch_up(self, declared: Subscription) -> bool:
        runner = self._runner = Runner([declared])
        if self._is_stopped:
            return False
        assign_positions(runner.stop)
        reached = UntilCaughtUp([declared.name])

        done = False

        def until() -> bool:
            nonlocal done
            done = reached()
            if not done and not drive(self._exists(declared)):
                raise BuiltMeanwhile(self._cls.name)
            if self._progress is not None:
                self._progress(reached.position, reached.target)
            return done

        runner.run(until)
        return done

    async def _exists(self, declared: Subscription) -> bool:
        with suppress(PyMongoError, StoreUnavailable):
            return (
                await checkpoints.find(connection.blocking(), declared.name) is not None
            )
        return True  # as far as is known


def drop_old(cls: type[Projection], before: int | None = None) -> list[str]:
    """
    Drop the collections of old generations; return their names.

    Args:
        cls: the projection.
        before: the lowest generation to keep; None takes the one in use.
    """
    store = connection.blocking()
    found = drive(find_document(store, cls.name))
    names = [
        collection_name(cls.name, number)
        for number in range(1, before or found.get("generation", 1))
    ]
    return [name for name in names if drop_collection(store, name)]
