"""
Checkpoints in the SQL database that a subscription writes to.

``using`` is the alias of that database. The subscription has a row, which says up to
which position all events are handled and which claim may move it. Each parked stream
has a row of its own, which says up to where that stream is handled; its later events
wait. The functions run in the caller's transaction, or in their own.
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
LOCK_TIMEOUT_SECONDS = 5  # to wait for a row that another process has locked


def read(subscription: str, using: str, aggregate_id: str = "") -> int | None:
    """Return the position in a row, None without one."""
    found = _row(subscription, using, aggregate_id)
    return found.values_list("position", flat=True).first()


def streams(subscription: str, using: str) -> dict[str, int]:
    """Return the parked streams, and the position up to which each is handled."""
    found = _streams(subscription, using).values_list("aggregate_id", "position")
    return dict(found)


def claim(subscription: str, token: str, using: str) -> int | None:
    """
    Let only one claim move the rows from now on.

    Args:
        subscription: the name of the subscription.
        token: the token of the claim.
        using: the alias of the database.

    Returns:
        The position of the subscription, None without a row.
    """
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        _row(subscription, using).update(claim=token, updated=timezone.now())
    # After the commit: before, a database may show the row as it was at the start.
    return read(subscription, using)


def adopt(
    subscription: str, position: int, parked: Mapping[str, int], token: str, using: str
) -> None:
    """
    Create the rows of a subscription whose checkpoint was elsewhere until now.

    Args:
        subscription: the name of the subscription.
        position: the position up to which all events are handled.
        parked: the parked streams, and the position at which each waits.
        token: the token of the claim, after ``claim()``.
        using: the alias of the database.

    Raises:
        IntegrityError: another process has claimed or created the row meanwhile.
    """
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        mine = _row(subscription, using).filter(claim=token)
        _put(mine, subscription, position, token, using)
        for aggregate_id, waits_at in parked.items():
            park(subscription, aggregate_id, waits_at - 1, using)


def _put(
    found: QuerySet[Checkpoint],
    subscription: str,
    position: int,
    token: str,
    using: str,
) -> None:
    """Write the row of a subscription, in a transaction; delete those of streams."""
    fields = {**_fields(subscription, position, ""), "claim": token}
    # The write comes first: SQLite cannot lock what the transaction has read.
    if not found.update(**fields):
        key = _row_key(subscription, "")
        Checkpoint.objects.using(using).create(key=key, **fields)
    _streams(subscription, using).delete()


def _wait_not_too_long(using: str) -> None:
    """Fail if a frozen process keeps the row locked; PostgreSQL would wait for ever."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")


def hold(subscription: str, token: str, before: int, after: int, using: str) -> bool:
    """
    Lock the subscription's row and move it, if it is where the claim left it.

    This is the first statement of every transaction. Of two processes that handle the
    same events, the second waits here and gets False once the first has committed; it
    has nothing to roll back. The result is also False if an earlier transaction
    committed though its answer was lost, or if the database was restored.

    Args:
        subscription: the name of the subscription.
        token: the token of the claim.
        before: the position where the claim left the row.
        after: the position to move it to; it may be the same.
        using: the alias of the database.
    """
    found = _row(subscription, using).filter(claim=token, position=before)
    return found.update(position=after, updated=timezone.now()) == 1


def park(subscription: str, aggregate_id: str, position: int, using: str) -> None:
    """Create the row of a parked stream, which is handled up to a position."""
    Checkpoint.objects.using(using).update_or_create(
        key=_row_key(subscription, aggregate_id),
        defaults=_fields(subscription, position, aggregate_id),
    )


def advance(subscription: str, aggregate_id: str, position: int, using: str) -> bool:
    """Move a stream's row; False if it is that far already, or if there is none."""
    found = _row(subscription, using, aggregate_id).filter(position__lt=position)
    return found.update(position=position, updated=timezone.now()) == 1


def release(subscription: str, aggregate_id: str, using: str) -> None:
    """Delete a stream's row: the stream is handled as far as the subscription."""
    _row(subscription, using, aggregate_id).delete()


def skip(
    subscription: str, aggregate_id: str, before: int, position: int, using: str
) -> bool:
    """
    Move a stream's row past an event that is skipped.

    Returns:
        False if the row is not at ``before``: the event may have been handled.
    """
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        # Lock the subscription's row first, as a process that delivers does.
        _row(subscription, using).update(updated=timezone.now())
        found = _row(subscription, using, aggregate_id).filter(position=before)
        return found.update(position=position, updated=timezone.now()) == 1


def pass_over(subscription: str, position: int, using: str) -> None:
    """Move the subscription's row past an event; end its claim, keep streams parked."""
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        found = _row(subscription, using).filter(position__lt=position)
        found.update(position=position, claim=token_hex(16), updated=timezone.now())


def reset(subscription: str, position: int, using: str) -> None:
    """Move the subscription's row anywhere; end its claim, release all streams."""
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        found = _row(subscription, using)
        _put(found, subscription, position, token_hex(16), using)


def forget(subscription: str, using: str) -> None:
    """Delete the rows of a subscription that no longer exists, and of its streams."""
    with transaction.atomic(using=using):
        _wait_not_too_long(using)
        _row(subscription, using).delete()
        _streams(subscription, using).delete()


def _row(subscription: str, using: str, aggregate_id: str = "") -> QuerySet[Checkpoint]:
    key = _row_key(subscription, aggregate_id)
    return Checkpoint.objects.using(using).filter(key=key)


def _streams(subscription: str, using: str) -> QuerySet[Checkpoint]:
    found = Checkpoint.objects.using(using).exclude(key=_row_key(subscription, ""))
    return found.filter(key__startswith=_digest(subscription))


def _fields(subscription: str, position: int, aggregate_id: str) -> dict[str, Any]:
    return {
        "subscription": subscription[:NAME_LENGTH],
        "aggregate_id": aggregate_id,
        "position": position,
        "updated": timezone.now(),
    }


def _row_key(subscription: str, aggregate_id: str) -> str:
    return _digest(subscription) + _digest(aggregate_id)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
