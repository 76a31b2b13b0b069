"""What all scenarios of decisions have in common: a decision, and what came of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Self

from ...documents.arguments import check_function
from ...documents.bson_types import Document
from ...documents.display import visible
from ..matching import compared, diff, listed
from .isolation import without_store


class Scenario:
    """
    What was given, and what a decision makes of it.

    ``when()`` returns a new scenario, so one that is given can be used again.

    Args:
        subject: what decides, for messages.
        events: those that are given, as stored.
    """

    def __init__(self, subject: str, events: list[Document]) -> None:
        self._subject = subject
        #: The events that were given and decided so far, as stored.
        self.events = events
        #: The events of the last decision, as stored.
        self.appended: list[Document] = []
        #: What the last decision raised.
        self.error: Exception | None = None
        self._is_decided = self._is_expected = False

    def __repr__(self) -> str:
        return f"<{self._subject}, {len(self.events)} events>"

    def _decided(self, decide: Callable[[Any], Any]) -> list[Document]:
        """Return the events that a decision adds, as stored."""
        raise NotImplementedError

    def _view(self) -> Any:
        """Return the state."""
        raise NotImplementedError

    # --- decide

    def when(self, decide: Callable[[Any], Any]) -> Self:
        """
        Decide, as ``execute()`` does, but without the store.

        Args:
            decide: what ``execute()`` takes. For an aggregate also a function that
                calls ``add()`` or ``validate()`` of it.

        Returns:
            A scenario with the new events, or with what the function raised. Use its
            ``then…()`` or ``raises()``.
        """
        __tracebackhide__ = True
        check_function(decide, "decide")
        self._pass_on()
        new = copy.copy(self)
        new._subject = f"{self._subject}.when({_name_of(decide)})"
        new.appended, new.error = [], None
        new._is_decided, new._is_expected = True, False
        try:
            with without_store(_name_of(decide)):
                new.appended = self._decided(decide)
        except Exception as error:
            new.error = error
        return new._with_appended()

    def _with_appended(self) -> Self:
        """Add the new events to the others."""
        self.events = [*self.events, *self.appended]
        return self

    def _pass_on(self) -> None:
        """Raise what the decision raised, unless the test expects that."""
        __tracebackhide__ = True
        if self.error is not None and not self._is_expected:
            raise self.error

    # --- and then

    def then(self, *expected: Any) -> Self:
        """
        Check which events were decided: these, in this order, and no others.

        Args:
            expected: for each event ``event("BookLent", to="bob")``; an object of a
                class with ``@event``; a dict; or a type. Only the fields that it names
                count.

        Raises:
            AssertionError: says event by event what differs.
        """
        __tracebackhide__ = True
        return self._then(expected, exact=False)

    def then_exactly(self, *expected: Any) -> Self:
        """Check the same, and that no payload has other fields."""
        __tracebackhide__ = True
        return self._then(expected, exact=True)

    def then_nothing(self) -> Self:
        """Check that no event was decided."""
        __tracebackhide__ = True
        return self._then((), exact=True)

    def _then(self, expected: tuple[Any, ...], *, exact: bool) -> Self:
        __tracebackhide__ = True
        self._check_decided()
        self._pass_on()
        if text := diff(expected, self.appended, exact=exact):
            self._fail(f"decided other events than expected\n{text}")
        return self

    def raises(
        self,
        error: type[BaseException] | tuple[type[BaseException], ...],
        match: str | None = None,
    ) -> Self:
        """
        Check that the decision raised an error.

        Args:
            error: its class, or several.
            match: a regular expression that is found in its text.

        Raises:
            AssertionError: it raised none, or another one.
        """
        __tracebackhide__ = True
        kinds = error if isinstance(error, tuple) else (error,)
        if not kinds or not all(_is_error(one) for one in kinds):
            raise TypeError(f"error must be the class of an error, not {error!r}.")
        self._check_decided()
        names = " or ".join(one.__name__ for one in kinds)
        found = self.error
        if found is None:
            some = diff([], self.appended) or "Nothing was decided."
            self._fail(f"did not raise {names}\n{some}")
        what = f"{type(found).__name__}: {visible(str(found))}"
        if not isinstance(found, kinds):
            self._fail(f"raised another error than {names}\n{what}", found)
        if match is not None and not re.search(match, str(found)):
            self._fail(
                f"raised {names} with another text than {match!r}\n{what}", found
            )
        self._is_expected = True
        return self

    @property
    def state(self) -> Any:
        """The state, with the events of the decision."""
        __tracebackhide__ = True
        self._pass_on()
        with without_store("view"):
            return self._view()

    def then_state(self, expected: Mapping[str, Any]) -> Self:
        """
        Check the state; ``state == {…}`` checks all of it.

        Args:
            expected: what it must have; it may have more.

        Raises:
            AssertionError: says what differs.
        """
        __tracebackhide__ = True
        state = self.state
        if not isinstance(state, Mapping):
            kind = type(state).__name__
            raise TypeError(
                f"then_state() is for a dict; compare .state, of type {kind}."
            )
        if found := list(compared((), expected, state)):
            self._fail(f"has another state than expected\n{listed(found)}")
        return self

    def _check_decided(self) -> None:
        if not self._is_decided:
            raise TypeError(f"Call when() first: {self._subject} has decided nothing.")

    def _fail(self, text: str, cause: BaseException | None = None) -> NoReturn:
        __tracebackhide__ = True
        raise failure(self._subject, text) from cause


def failure(subject: str, text: str) -> AssertionError:
    """Return the error of a check that failed."""
    return AssertionError(f"{subject} {text}")


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or repr(function)
    return visible(name.replace("<locals>.", ""))


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
