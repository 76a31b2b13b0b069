"""Metrics for Prometheus, for users to import."""

from .monitoring.metrics import Collector, MetricsView

__all__ = ["Collector", "MetricsView"]
