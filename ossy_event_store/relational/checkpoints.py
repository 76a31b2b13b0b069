"""
Read and move a checkpoint, within the transaction of whoever calls.

``using`` is the alias that the subscription writes to. ``aggregate_id`` names a stream
that goes its own way; without it the checkpoint is that of the whole subscription.
"""

from __future__ import annotations

from hashlib import sha256

from django.db import transaction
from django.utils import timezone

from .models import Checkpoint

NAME_LENGTH = 255


def read(subscription: str, using: str, aggregate_id: str = "") -> int | None:
    """Return the position up to which all was handled, None without a checkpoint."""
    found = Checkpoint.objects.using(using).filter(key=_key(subscription, aggregate_id))
    return found.values_list("position", flat=True).first()


def begin(subscription: str, position: int, using: str, aggregate_id: str = "") -> None:
    """Make the checkpoint if there is none; many may do so at the same time."""
    Checkpoint.objects.using(using).get_or_create(
        key=_key(subscription, aggregate_id),
        defaults=_row(subscription, position, aggregate_id),
    )


def advance(
    subscription: str, before: int, after: int, using: str, aggregate_id: str = ""
) -> bool:
    """
    Move the checkpoint, and return whether it still stood where it was thought to.

    It belongs into the transaction that writes what the events led to, as its first
    statement: of two that handle the same events the second then waits here, is told
    False once the first has committed, and has nothing to take back.

    Args:
        subscription: the name of the subscription.
        before: where it was read to stand.
        after: the position of the last event that is handled.
        using: the alias of the database.
        aggregate_id: the stream, if it is one's own.
    """
    found = Checkpoint.objects.using(using).filter(
        key=_key(subscription, aggregate_id), position=before
    )
    return found.update(position=after, updated=timezone.now()) == 1


def reset(subscription: str, position: int, using: str) -> None:
    """Let the whole subscription go on behind a position, and every stream with it."""
    whole = _key(subscription, "")
    with transaction.atomic(using=using):
        Checkpoint.objects.using(using).update_or_create(
            key=whole, defaults=_row(subscription, position, "")
        )
        streams = Checkpoint.objects.using(using).exclude(key=whole)
        streams.filter(key__startswith=_digest(subscription)).delete()


def _row(subscription: str, position: int, aggregate_id: str) -> dict[str, object]:
    return {
        "subscription": subscription[:NAME_LENGTH],
        "aggregate_id": aggregate_id[:NAME_LENGTH],
        "position": position,
        "updated": timezone.now(),
    }


def _key(subscription: str, aggregate_id: str) -> str:
    return _digest(subscription) + _digest(aggregate_id)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
