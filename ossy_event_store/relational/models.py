"""The tables: checkpoints, which ``checkpoints`` reads and writes, and the outbox."""

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


class Outbox(models.Model):
    """
    An event that an SQL transaction wrote and that is still to be appended.

    ``key`` and ``stream`` are digests of the event's id and of its stream, for the
    reasons given above. The rows of a stream are appended in the order of ``id``.
    """

    class State(models.TextChoices):
        """What happens to a row."""

        WAITING = "waiting"
        PARKED = "parked"  # it failed; the later rows of its stream wait behind it
        DISCARDED = "discarded"  # by an operator; kept as the record of that

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=64, unique=True)
    stream = models.CharField(max_length=64)
    event_id = models.TextField()
    aggregate_id = models.TextField()
    type = models.TextField()
    event = models.TextField()  # all of it, as Extended JSON
    created = models.DateTimeField()
    state = models.CharField(max_length=9, default=State.WAITING)
    tries = models.PositiveIntegerField(default=0)  # those that failed
    failed = models.DateTimeField(null=True)  # the last of them
    error = models.TextField(blank=True)
    discarded = models.DateTimeField(null=True)
    discarded_by = models.TextField(blank=True)
    reason = models.TextField(blank=True)

    class Meta:
        default_permissions = ()
        indexes = (
            # The rows before a row of its stream.
            models.Index(fields=["stream", "id"], name="ossy_outbox_stream"),
            # The rows that wait, in the order in which a relay tries them; and the
            # parked ones, which are few.
            models.Index(fields=["state", "tries", "id"], name="ossy_outbox_state"),
        )

    def __str__(self) -> str:
        return f"{self.type} of {self.aggregate_id!r} (event {self.event_id})"
