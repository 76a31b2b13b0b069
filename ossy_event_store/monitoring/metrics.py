"""
Metrics for Prometheus, from the figures of ``health``; needs the extra ``prometheus``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import classonlymethod, method_decorator
from django.views.decorators.cache import never_cache

from ..relational.views import UntransactedView
from . import health

#: Metrics of each subscription: the help text, and the value in its figures.
SUBSCRIPTION_METRICS: Mapping[str, tuple[str, Any]] = {
    "running": ("Whether a process runs it.", lambda one: one["state"] == "running"),
    "stopped": ("Whether it has stopped at an event.", lambda one: one["stopped"]),
    "paused": ("Whether an operator has paused it.", lambda one: one["paused"]),
    "declared": ("Whether the code declares it.", lambda one: one["declared"]),
    "lag_events": ("Events after its checkpoint.", lambda one: one["lag"]),
    "lag_seconds": (
        "Seconds since the next event that it wants was recorded.",
        lambda one: one["lag_seconds"],
    ),
    "rate": ("Recent events per second.", lambda one: one["rate"]),
    "delivered": (
        "Events delivered since its first run.",
        lambda one: one["delivered"],
    ),
    "parked": ("Streams parked after a failure.", lambda one: one["parked"]),
    "changed": (
        "Whether a projection, or an upcaster of its events, has changed since it was "
        "built.",
        lambda one: one["changed"],
    ),
}
#: Metrics of the positions: the help text, and the key in their figures.
POSITION_METRICS: Mapping[str, tuple[str, str]] = {
    "head_position": ("The last position.", "head"),
    "events": ("Stored events, as MongoDB estimates.", "events"),
    "sequencer_running": ("Whether a process assigns positions.", "running"),
    "position_lag_seconds": (
        "Seconds that an event has waited for its position.",
        "lag_seconds",
    ),
    "damaged_streams": ("Damaged streams, which get no positions.", "damaged"),
}
#: Metrics of each outbox: the help text, and the key in its figures.
OUTBOX_METRICS: Mapping[str, tuple[str, str]] = {
    "waiting": ("Events in an SQL database that are still to be appended.", "waiting"),
    "lag_seconds": ("Seconds that the oldest of them has waited.", "lag_seconds"),
    "parked": ("Streams parked since their event cannot be appended.", "parked"),
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
            "MetricsView needs the package prometheus-client, which is not installed. "
            "Run pip install 'ossy_event_store[prometheus]'."
        ) from None


class Collector:
    """
    Reads the figures each time that Prometheus scrapes them.

    ``MetricsView`` has one in its own registry. To add it to the metrics of your
    project, call ``prometheus_client.REGISTRY.register(Collector())``.
    """

    def describe(self) -> list[Any]:
        """Return nothing, so that registering it needs no server."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; if the store does not answer, only that it does not."""
        yield from metrics(health.figures())


def metrics(figures: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the metrics of some figures."""
    core = prometheus().core

    def gauge(name: str, what: str, value: Any) -> Any:
        return core.GaugeMetricFamily(f"{PREFIX}_{name}", what, value=float(value))

    yield gauge("up", "Whether the store answers.", figures["store"]["reachable"])
    yield gauge("healthy", "Whether all figures are within the limits.", figures["ok"])
    if figures["positions"] is None:
        return
    for name, (what, key) in POSITION_METRICS.items():
        yield gauge(name, what, figures["positions"][key])
    for name, (what, value_of) in SUBSCRIPTION_METRICS.items():
        is_counter = name in COUNTERS
        family = core.CounterMetricFamily if is_counter else core.GaugeMetricFamily
        metric = family(f"{PREFIX}_subscription_{name}", what, labels=["subscription"])
        for one in figures["subscriptions"]:
            metric.add_metric([one["name"]], float(as_number(value_of(one))))
        yield metric
    yield from _metrics_of_outboxes(core, figures["outboxes"])


def _metrics_of_outboxes(
    core: Any, outboxes: Sequence[Mapping[str, Any]]
) -> Iterator[Any]:
    readable = [one for one in outboxes if one["error"] is None]
    for name, (what, key) in OUTBOX_METRICS.items():
        metric = core.GaugeMetricFamily(
            f"{PREFIX}_outbox_{name}", what, labels=["using"]
        )
        for one in readable:
            metric.add_metric([one["using"]], float(one[key]))
        yield metric


def as_number(value: Any) -> float:
    """Return a number; for other values, whether they are true."""
    return value if isinstance(value, (int, float)) else bool(value)


@method_decorator(never_cache, name="dispatch")
class MetricsView(UntransactedView):
    """
    Responds with the metrics in Prometheus' text format, always with status 200.

    Every process responds with the same figures, because they are the store's.
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
        """Respond."""
        client = prometheus()
        registry = client.CollectorRegistry()
        registry.register(Collector())
        return HttpResponse(
            client.generate_latest(registry), content_type=client.CONTENT_TYPE_LATEST
        )
