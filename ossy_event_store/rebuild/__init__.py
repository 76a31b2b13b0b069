"""Rebuild: make snapshots again from the events."""

from .api import AggregateRebuild
from .report import Altered, DryRun, RebuildReport

__all__ = ["AggregateRebuild", "Altered", "DryRun", "RebuildReport"]
