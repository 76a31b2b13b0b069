"""
A request in whose context events are appended: it is asked for its user at the append.

Before the append nobody is asked, as that may query the database: the middleware makes
no query, and neither does a request that appends nothing. Django caches the user in the
request, and a view may log somebody in between two appends.
"""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.utils.functional import LazyObject

from ...conf import context_options
from ...exceptions import InvalidEvent
from ..event_document import check_id

_IN_A_LOOP = (
    "request.user may query the database, and this is a coroutine: use await "
    "event_context.acarry(), or sync_to_async."
)


class AskedRequest:
    """The request of this thread or task."""

    __slots__ = ("_request",)

    def __init__(self, request: Any) -> None:
        self._request = request

    def who(self) -> str | None:
        """
        Return the name of the request's user, None if it has none.

        Raises:
            SynchronousOnlyOperation: the user has to be read from the database, and
                this is a coroutine.
        """
        user = getattr(self._request, "user", None)
        try:
            return name_of(user)
        except SynchronousOnlyOperation as error:
            raise SynchronousOnlyOperation(_IN_A_LOOP) from error

    async def awho(self) -> str | None:
        """Return the name of the request's user; see ``who()``."""
        request = self._request
        if not isinstance(getattr(request, "user", None), LazyObject):
            return self.who()  # who has logged in, or was authenticated by a token
        if (ask := getattr(request, "auser", None)) is not None:
            name = name_of(await ask())
            if name is not None:
                return name
        # Other middleware may have put a lazy user of its own there.
        return await sync_to_async(self.who)()


def name_of(user: Any) -> str | None:
    """
    Return what ``createdBy`` says of a user: the attribute in the setting, as text.

    Returns:
        None for no user, an anonymous one, and one without a name.

    Raises:
        ImproperlyConfigured: the user has no such attribute.
        InvalidEvent: the name is too long for an event.
    """
    attribute = context_options().USER
    if attribute is None or not getattr(user, "is_authenticated", False):
        return None
    try:
        found = (
            user.get_username() if attribute == "username" else getattr(user, attribute)
        )
    except AttributeError as error:
        raise ImproperlyConfigured(
            f"OSSY_EVENT_STORE['CONTEXT']['USER'] is {attribute!r}, but the user of "
            f"this request, a {type(user).__name__}, lacks it: {error}."
        ) from error
    if found is None or found == "":
        return None
    try:
        return check_id(str(found), "it")
    except ValueError as error:
        raise InvalidEvent(
            "createdBy",
            f"cannot hold the {attribute} of the request's user: {error} Give createdBy"
            " in the event, or set OSSY_EVENT_STORE['CONTEXT']['USER'] to 'pk'",
        ) from None
