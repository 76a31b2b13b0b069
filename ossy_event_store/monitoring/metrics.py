"""
The figures of ``health`` for Prometheus; needs the extra ``prometheus``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import classonlymethod, method_decorator
from django.views import View
from django.views.decorators.cache import never_cache

from . import health

#: Of each subscription: the metric, which is a counter or a gauge, what it is, and how
#: it is taken from the figures.
SUBSCRIPTION: Mapping[str, tuple[str, Any]] = {
    "running": ("Whether a process runs it.", lambda one: one["state"] == "running"),
    "stopped": ("Whether it has stopped at an event.", lambda one: one["stopped"]),
    "declared": ("Whether the code declares it.", lambda one: one["declared"]),
    "lag_events": ("Events behind the last position.", lambda one: one["lag"]),
    "lag_seconds": (
        "Seconds since the next event that it wants was recorded.",
        lambda one: one["lag_seconds"],
    ),
    "rate": ("Events a second, lately.", lambda one: one["rate"]),
    "delivered": ("Events handed on since it began.", lambda one: one["delivered"]),
    "parked": ("Streams that wait since a handler failed.", lambda one: one["parked"]),
    "changed": (
        "Whether the class of a projection has changed since it was built.",
        lambda one: one["changed"],
    ),
}
POSITIONS: Mapping[str, tuple[str, str]] = {
    "head_position": ("The last position.", "head"),
    "events": ("Events stored, as MongoDB estimates.", "events"),
    "sequencer_running": ("Whether a process gives positions.", "running"),
    "position_lag_seconds": (
        "Seconds that an event waits for its position.",
        "lag_seconds",
    ),
}
COUNTERS = frozenset({"delivered"})
PREFIX = "ossy_event_store"


def prometheus() -> Any:
    """
    Return the package ``prometheus_client``.

    Raises:
        ImproperlyConfigured: it is not installed.
    """
    try:
        import_module("prometheus_client.core")
        return import_module("prometheus_client")
    except ImportError:
        raise ImproperlyConfigured(
            "MetricsView needs the package prometheus-client: install "
            "ossy_event_store with the extra prometheus, as in "
            "pip install 'ossy_event_store[prometheus]'."
        ) from None


class Collector:
    """
    Collects the figures anew each time it is asked.

    ``MetricsView`` has one in a registry of its own. To have them among the metrics of
    your own, ``prometheus_client.REGISTRY.register(Collector())``.
    """

    def describe(self) -> list[Any]:
        """Return nothing, so that to register it asks no server."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; without an answer only that there is none."""
        yield from metrics(health.figures())


def metrics(figures: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the metrics of some figures."""
    core = prometheus().core

    def gauge(name: str, what: str, value: Any) -> Any:
        return core.GaugeMetricFamily(f"{PREFIX}_{name}", what, value=float(value))

    yield gauge("up", "Whether the store answers.", figures["store"]["reachable"])
    yield gauge("healthy", "Whether all is within the limits.", figures["ok"])
    if figures["positions"] is None:
        return
    for name, (what, key) in POSITIONS.items():
        yield gauge(name, what, figures["positions"][key])
    for name, (what, value_of) in SUBSCRIPTION.items():
        counts = name in COUNTERS
        family = core.CounterMetricFamily if counts else core.GaugeMetricFamily
        metric = family(f"{PREFIX}_subscription_{name}", what, labels=["subscription"])
        for one in figures["subscriptions"]:
            metric.add_metric([one["name"]], float(bool_or_number(value_of(one))))
        yield metric


def bool_or_number(value: Any) -> float:
    """Return a number; of what is not one, whether there is something."""
    return value if isinstance(value, (int, float)) else bool(value)


@method_decorator(never_cache, name="dispatch")
class MetricsView(View):
    """
    Answers with the metrics in Prometheus' text format, always with status 200.

    Every process answers with the same figures, since they are the store's.
    """

    http_method_names: ClassVar[list[str]] = ["get", "head"]  # type: ignore[misc]

    @classonlymethod
    def as_view(cls, **initkwargs: Any) -> Any:  # noqa: N805
        """
        Return the view.

        Raises:
            ImproperlyConfigured: the extra ``prometheus`` is not installed.
        """
        prometheus()
        return super().as_view(**initkwargs)

    def get(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        client = prometheus()
        registry = client.CollectorRegistry()
        registry.register(Collector())
        return HttpResponse(
            client.generate_latest(registry), content_type=client.CONTENT_TYPE_LATEST
        )
