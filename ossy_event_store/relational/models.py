"""The table of checkpoints; ``checkpoints`` reads and writes it."""

from __future__ import annotations

from django.db import models


class Checkpoint(models.Model):
    """
    How far a subscription has come, or one of its parked streams.

    A row is found by its key alone, which consists of digests: some databases take two
    names for equal that differ in case or in a trailing space, and two names of 255
    characters are too long for an index. The names in the row are for people.
    """

    key = models.CharField(max_length=128, primary_key=True)
    subscription = models.CharField(max_length=255)
    # Empty in the row of the subscription, which counts for all streams without a row.
    aggregate_id = models.TextField(blank=True)
    position = models.BigIntegerField()
    # In the row of the subscription: the token of the process that may move it.
    claim = models.CharField(max_length=32, blank=True)
    updated = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        stream = f", stream {self.aggregate_id}" if self.aggregate_id else ""
        return f"{self.subscription}{stream}: {self.position}"
