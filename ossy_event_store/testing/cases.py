"""
Test cases for Django's own runner: each test begins with an empty store.
"""

from __future__ import annotations

from typing import Any

from django.test import TestCase, TransactionTestCase

from .appended_events import appended
from .database import prepare
from .running import arun_subscriptions, run_subscriptions


class EventStoreMixin:
    """
    Empties the store before each test; for any of Django's test cases.

    Write it before the test case, and call ``super().setUp()`` in your own ``setUp()``.
    """

    run_subscriptions = staticmethod(run_subscriptions)
    arun_subscriptions = staticmethod(arun_subscriptions)
    appended = appended

    def setUp(self) -> None:
        """Empty the store, and create its indexes if this is the first test."""
        parent: Any = super()
        parent.setUp()
        prepare()


class EventStoreTestCase(EventStoreMixin, TestCase):
    """Django's ``TestCase``, with an empty store for each test."""


class EventStoreTransactionTestCase(EventStoreMixin, TransactionTestCase):
    """
    Django's ``TransactionTestCase``, with an empty store for each test.

    For tests in which SQL transactions commit, or run in other threads.
    """
