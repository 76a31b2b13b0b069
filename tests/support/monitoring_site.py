"""The views of the monitoring."""

from django.urls import path

from ossy_event_store.monitoring.health import HealthView
from ossy_event_store.monitoring.metrics import MetricsView

urlpatterns = [
    path("health", HealthView.as_view()),
    path("health/details", HealthView.as_view(details=True)),
    path("health/store", HealthView.as_view(store_only=True)),
    path("metrics", MetricsView.as_view()),
]
