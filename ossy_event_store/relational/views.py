"""Views that open no transaction in the site's SQL databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections, transaction
from django.http.response import HttpResponseBase
from django.utils.decorators import classonlymethod
from django.views import View


class UntransactedView(View):
    """
    A view without the transaction that ``ATOMIC_REQUESTS`` asks for.

    Django refuses one to async views; and a view that reports on the store must
    not need an SQL database.
    """

    @classonlymethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., HttpResponseBase]:  # noqa: N805
        """Return the view."""
        view = super().as_view(**initkwargs)
        for alias in connections:
            view = transaction.non_atomic_requests(using=alias)(view)
        return view
