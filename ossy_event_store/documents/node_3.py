"""
Events of the Node package ``@ossy/event-store`` 3.x as lines of this store. Pure.

That version has other fields than 1.8.0 and this store: ``resourceId``, ``type`` (of
the resource), ``event`` (of the event) and ``version``. It lets two writers store one
version, so the versions of a stream are counted here from 1, in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ..exceptions import InvalidLine
from .event_document import version_number
from .extended_json import Malformed, decode, dumps
from .passed_over import PassedOver

# The order in which the documents are needed. The Node package has an index for it.
SORT = [("resourceId", 1), ("version", 1)]

_RENAMED = {"resourceId": "aggregateId", "type": "aggregateType", "event": "type"}
_KEPT = ("created", "createdBy")
_OTHERS = frozenset((*_RENAMED, *_KEPT, "_id", "id", "version", "payload"))

Numbered = tuple[int, Any]


@dataclass
class Conversion:
    """What was noticed while documents were converted."""

    #: Events that got another version than they had.
    renumbered: int = 0
    #: Documents that are not events of that version.
    passed_over: PassedOver = field(default_factory=PassedOver)
    #: Number and id of the last events, to name one that cannot be imported.
    recent: deque[tuple[int, Any]] = field(default_factory=lambda: deque(maxlen=20_000))


def converted(
    documents: Iterable[Numbered], conversion: Conversion
) -> Iterator[tuple[int, str]]:
    """
    Yield documents as lines that ``import_events`` reads, each with its number.

    Events of one version are ordered by ``created`` and ``id``, so that the same
    documents always get the same versions. What has no place in an event of this store,
    such as ``ip``, goes into ``metadata``, and so does a version that was changed.

    Args:
        documents: numbered, as Extended JSON, in the order ``SORT``.
        conversion: counts what is unusual.

    Raises:
        InvalidLine: the documents are in another order.
    """
    place: tuple[str, int] = ("", 0)
    count = 0
    for next_place, events in groupby(_events(documents, conversion), _place):
        ordered = sorted(events, key=_by_time)
        if next_place < place:
            raise InvalidLine(
                ordered[0][0],
                "version",
                "the events are not in order of resourceId and version; export them "
                'with mongoexport --sort \'{"resourceId": 1, "version": 1}\'',
            )
        count = count if next_place[0] == place[0] else 0
        place = next_place
        for number, document in ordered:
            count += 1
            conversion.recent.append((number, document.get("id")))
            conversion.renumbered += place[1] != count
            yield number, dumps(_line(document, place[1], count))


def _events(
    documents: Iterable[Numbered], conversion: Conversion
) -> Iterator[Numbered]:
    for numbered in documents:
        if _is_event(numbered[1]):
            yield numbered
        else:
            is_dict = isinstance(numbered[1], dict)
            document_id = numbered[1].get("_id") if is_dict else numbered[1]
            conversion.passed_over.add(document_id, "not of @ossy/event-store 3.x")


def _is_event(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and all(isinstance(document.get(name), str) for name in _RENAMED)
        and _version(document) is not None
    )


def _decoded(value: Any) -> Any:
    try:
        return decode(value)
    except Malformed:
        return None


def _version(document: dict[str, Any]) -> int | None:
    return version_number(_decoded(document.get("version")))


def _place(numbered: Numbered) -> tuple[str, int]:
    _, document = numbered
    return document["resourceId"], _version(document) or 0


def _by_time(numbered: Numbered) -> tuple[float, str]:
    _, document = numbered
    created = _decoded(document.get("created"))
    return created if isinstance(created, (int, float)) else 0, str(document.get("id"))


def _line(document: dict[str, Any], version: int, count: int) -> dict[str, Any]:
    others = {name: document[name] for name in document if name not in _OTHERS}
    if version != count:
        others["version"] = version
    return {
        "_id": document["id"] if "id" in document else document["_id"],
        **{ours: document[theirs] for theirs, ours in _RENAMED.items()},
        "aggregateVersion": count,
        "payload": {} if document.get("payload") is None else document["payload"],
        **{name: document[name] for name in _KEPT if name in document},
        "metadata": others,
    }
