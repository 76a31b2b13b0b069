"""Find upcasters that are not pure, in tests of a project. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ..bson_types import Document
from ..event_document import read_whole_event
from ..storable import copied
from .catalogue import current
from .upcasting import Ran, failed


def check_upcasters(events: Iterable[Document]) -> int:
    """
    Call every upcaster that some events need twice, and return the number of calls.

    The second time it begins with the last event, so what an upcaster remembers of
    other events shows as well.

    Args:
        events: as stored: of each type in each of its versions, at least one.

    Raises:
        UpcasterError: an upcaster raised, returned no payload, changed what it got, or
            returned something else the second time.
        UnknownEventVersion: an event has a version that the code does not know.
        ImproperlyConfigured: the declarations contradict each other.
    """
    stored = [read_whole_event(copied(event)) for event in events]
    first = [_calls(event) for event in stored]
    for event, calls in zip(reversed(stored), reversed(first), strict=True):
        for before, after in zip(calls, _calls(event), strict=False):
            if before.result != after.result:
                raise failed(
                    before.upcaster,
                    event,
                    f"called twice with the same payload, it returned "
                    f"{before.result!r} and then {after.result!r}. It must be pure: no "
                    "clock, no database, no chance.",
                )
    return 2 * sum(map(len, first))


def _calls(event: Document) -> list[Ran]:
    """Return the calls of upcasters that an event needs, with copies of the results."""
    ran: list[Ran] = []
    current().of(event, ran=ran)
    return [one._replace(result=copied(one.result)) for one in ran]
