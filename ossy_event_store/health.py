"""Health of the store and its subscriptions, for users to import."""

from .monitoring.health import HealthView, afigures, figures

__all__ = ["HealthView", "afigures", "figures"]
