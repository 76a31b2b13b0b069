"""The table of checkpoints; ``checkpoints`` is what reads and writes it."""

from __future__ import annotations

from django.db import models


class Checkpoint(models.Model):
    """
    How far a subscription came, or one parked stream of it.

    A row is found by its key alone, which is made of digests: in some databases two
    names that differ in case or in a space at the end are equal, and two names of
    255 characters are too long for an index. The name beside it is for people.
    """

    key = models.CharField(max_length=128, primary_key=True)
    subscription = models.CharField(max_length=255)
    # Empty in the row of the subscription, which counts for all streams without one.
    aggregate_id = models.TextField(blank=True)
    position = models.BigIntegerField()
    # The token of the process that may move it, in the row of the subscription.
    claim = models.CharField(max_length=32, blank=True)
    updated = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        stream = f", stream {self.aggregate_id}" if self.aggregate_id else ""
        return f"{self.subscription}{stream}: {self.position}"
