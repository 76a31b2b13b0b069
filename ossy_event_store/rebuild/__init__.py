"""Rebuild: make snapshots again from the events."""

from ..documents.passed_over import PassedOver
from .api import AggregateRebuild
from .report import Altered, DryRun, RebuildReport

__all__ = ["AggregateRebuild", "Altered", "DryRun", "PassedOver", "RebuildReport"]
