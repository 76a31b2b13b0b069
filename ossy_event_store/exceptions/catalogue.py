"""
The errors of the catalogue: event types, their versions, and upcasters.
"""

from __future__ import annotations

from typing import Any

from .errors import EventStoreError


class UnknownEventVersion(EventStoreError):
    """
    An event is stored with a type version that the code does not know.

    A newer release of the project wrote it, or the class or upcaster that knew the
    version was removed. The store never guesses what its payload means.
    """

    def __init__(self, event_id: Any, event_type: str, found: Any, known: int) -> None:
        super().__init__(event_id, event_type, found, known)
        self.event_id = event_id
        #: The type of the event, as it is stored.
        self.event_type = event_type
        #: Its stored ``typeVersion``.
        self.found = found
        #: The latest version that the code knows.
        self.known = known

    def __str__(self) -> str:
        return (
            f"Event {self.event_id!r} is of type {self.event_type!r} at version "
            f"{self.found!r}, but the code knows that type up to version {self.known}. "
            "Deploy the release that knows the version, or declare it with "
            f"@event({self.event_type!r}, version={self.found!r})."
        )


class UndecodableEvent(EventStoreError):
    """
    The class of an event cannot be made of what is stored.

    The class has changed without a new version, or another program stored the event.
    Give new fields a default, or raise the version and declare an upcaster.
    """

    def __init__(
        self,
        event_id: Any,
        event_type: str,
        version: int,
        cls: str,
        path: str,
        reason: str,
    ) -> None:
        super().__init__(event_id, event_type, version, cls, path, reason)
        self.event_id = event_id
        self.event_type = event_type
        #: The version of the payload that did not fit.
        self.version = version
        #: Module and name of the class.
        self.cls = cls
        #: The field, as ``lines[0].price``.
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        where = f"payload.{self.path}" if self.path else "payload"
        return (
            f"{self.cls} cannot be made of event {self.event_id!r} of type "
            f"{self.event_type!r} at version {self.version}: {where}: {self.reason}. "
            "Give a new field a default, or raise the version and declare an upcaster."
        )


class UpcasterError(EventStoreError):
    """
    An upcaster raised, or returned what is no payload.

    With ``DEBUG`` and in tests, also if it changed what it got.
    """

    def __init__(
        self, event_id: Any, event_type: str, version: int, upcaster: str, reason: str
    ) -> None:
        super().__init__(event_id, event_type, version, upcaster, reason)
        self.event_id = event_id
        self.event_type = event_type
        #: The version from which it was to lead.
        self.version = version
        #: Module and name of the function.
        self.upcaster = upcaster
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"The upcaster {self.upcaster} of {self.event_type} from version "
            f"{self.version} failed on event {self.event_id!r}: {self.reason}"
        )
