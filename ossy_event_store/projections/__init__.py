"""Projections: read models that subscriptions keep up to date."""

from .projection import Projection, register_projection

__all__ = ["Projection", "register_projection"]
