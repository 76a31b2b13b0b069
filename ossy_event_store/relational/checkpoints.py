"""
The checkpoints of subscriptions in an SQL database, beside what they write there.

``using`` is the alias that the subscription writes to. The subscription has a row,
which says up to which position all is handled, and which claim may move it. Each parked
stream has a row of its own, which says up to where that one is handled; its events
after that wait. What is here runs in the transaction of its caller, or in its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from secrets import token_hex
from typing import Any

from django.db import connections, transaction
from django.db.models import QuerySet
from django.utils import timezone

from .models import Checkpoint

NAME_LENGTH = 255
LOCKED = 5  # seconds for which a row may be locked by another process


def read(subscription: str, using: str, aggregate_id: str = "") -> int | None:
    """Return the position of a row, None if there is none."""
    found = _row(subscription, using, aggregate_id)
    return found.values_list("position", flat=True).first()


def streams(subscription: str, using: str) -> dict[str, int]:
    """Return the parked streams, and up to which position each is handled."""
    found = _streams(subscription, using).values_list("aggregate_id", "position")
    return dict(found)


def claim(subscription: str, token: str, using: str) -> int | None:
    """
    Let one claim alone move the rows from now on.

    Args:
        subscription: its name.
        token: what the claim says to ``hold()``.
        using: the alias of the database.

    Returns:
        The position of the subscription, None without a row.
    """
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        _row(subscription, using).update(claim=token, updated=timezone.now())
    # After the commit: inside, a database may show the row as it was at the start.
    return read(subscription, using)


def adopt(
    subscription: str, position: int, parked: Mapping[str, int], token: str, using: str
) -> None:
    """
    Make the rows of a subscription whose checkpoint was kept elsewhere until now.

    Raises:
        IntegrityError: another process has claimed or made the row meanwhile.

    Args:
        subscription: its name.
        position: up to where all is handled.
        parked: the streams that wait, and the position at which each does.
        token: that of the claim, after ``claim()``.
        using: the alias of the database.
    """
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        mine = _row(subscription, using).filter(claim=token)
        _put(mine, subscription, position, token, using)
        for aggregate_id, waits in parked.items():
            part(subscription, aggregate_id, waits - 1, using)


def _put(
    found: QuerySet[Checkpoint],
    subscription: str,
    position: int,
    token: str,
    using: str,
) -> None:
    """Write the row of a subscription, in a transaction; no stream is parked."""
    fields = {**_fields(subscription, position, ""), "claim": token}
    # A write comes first: SQLite refuses to lock what was read before.
    if not found.update(**fields):
        key = _key(subscription, "")
        Checkpoint.objects.using(using).create(key=key, **fields)
    _streams(subscription, using).delete()


def _wait_not_too_long(using: str) -> None:
    """Fail if a process that was frozen keeps the row locked; PostgreSQL would wait."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCKED}s'")


def hold(subscription: str, token: str, before: int, after: int, using: str) -> bool:
    """
    Lock the subscription's row and move it, if it stands where the claim left it.

    The first statement of every transaction: of two processes that handle the same
    events the second waits here, is told False once the first has committed, and has
    nothing to roll back. It is told False as well where an earlier transaction was
    committed though its answer was lost, or the database was restored.

    Args:
        subscription: its name.
        token: that of the claim.
        before: where the claim has left the row.
        after: the position to move it to, or the same.
        using: the alias of the database.
    """
    found = _row(subscription, using).filter(claim=token, position=before)
    return found.update(position=after, updated=timezone.now()) == 1


def part(subscription: str, aggregate_id: str, position: int, using: str) -> None:
    """Give a stream a row of its own: it is handled up to a position, and waits."""
    Checkpoint.objects.using(using).update_or_create(
        key=_key(subscription, aggregate_id),
        defaults=_fields(subscription, position, aggregate_id),
    )


def advance(subscription: str, aggregate_id: str, position: int, using: str) -> bool:
    """Move a stream's row; False if it is that far already, or there is none."""
    found = _row(subscription, using, aggregate_id).filter(position__lt=position)
    return found.update(position=position, updated=timezone.now()) == 1


def join(subscription: str, aggregate_id: str, using: str) -> None:
    """Delete a stream's row: it is handled as far as the subscription is."""
    _row(subscription, using, aggregate_id).delete()


def skip(
    subscription: str, aggregate_id: str, before: int, position: int, using: str
) -> bool:
    """
    Move a stream's row past an event that gets no effect.

    Returns:
        False if it does not stand at ``before``: somebody may have handled the event.
    """
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        # Locked first, as by a process that delivers.
        _row(subscription, using).update(updated=timezone.now())
        found = _row(subscription, using, aggregate_id).filter(position=before)
        return found.update(position=position, updated=timezone.now()) == 1


def pass_over(subscription: str, position: int, using: str) -> None:
    """Move the subscription's row past an event; parked streams stay parked."""
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        found = _row(subscription, using).filter(position__lt=position)
        found.update(position=position, claim=token_hex(16), updated=timezone.now())


def reset(subscription: str, position: int, using: str) -> None:
    """Move the subscription's row anywhere; its claim ends, and no stream is parked."""
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        found = _row(subscription, using)
        _put(found, subscription, position, token_hex(16), using)


def _row(subscription: str, using: str, aggregate_id: str = "") -> QuerySet[Checkpoint]:
    key = _key(subscription, aggregate_id)
    return Checkpoint.objects.using(using).filter(key=key)


def _streams(subscription: str, using: str) -> QuerySet[Checkpoint]:
    found = Checkpoint.objects.using(using).exclude(key=_key(subscription, ""))
    return found.filter(key__startswith=_digest(subscription))


def _fields(subscription: str, position: int, aggregate_id: str) -> dict[str, Any]:
    return {
        "subscription": subscription[:NAME_LENGTH],
        "aggregate_id": aggregate_id,
        "position": position,
        "updated": timezone.now(),
    }


def _key(subscription: str, aggregate_id: str) -> str:
    return _digest(subscription) + _digest(aggregate_id)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
