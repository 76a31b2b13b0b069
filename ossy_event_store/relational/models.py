"""The table of checkpoints; ``checkpoints`` is what reads and writes it."""

from __future__ import annotations

from django.db import models


class Checkpoint(models.Model):
    """
    How far a subscription came, or one stream of it that goes its own way.

    A row is found by its key alone, which is made of digests: in some databases two
    names that differ in case or in a space at the end are equal, and two names of
    255 characters are too long for an index. The names beside it are for people.
    """

    key = models.CharField(max_length=128, primary_key=True)
    subscription = models.CharField(max_length=255)
    # Empty for all streams that do not go their own way.
    aggregate_id = models.CharField(max_length=255, blank=True)
    position = models.BigIntegerField()
    updated = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        stream = f", stream {self.aggregate_id}" if self.aggregate_id else ""
        return f"{self.subscription}{stream}: {self.position}"
