"""What to rebuild and how: the options of a rebuild, and which exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..aggregate.registry import registered_aggregates, root_of
from ..documents.arguments import check_flag, check_names, check_number
from .ranges import Partition


class OptionsConflict(ValueError):
    """Option ``first`` cannot be combined with ``second``, for ``reason``."""

    def __init__(self, first: str, second: str, reason: str) -> None:
        super().__init__(first, second, reason)
        self.first = first
        self.second = second
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.first} cannot be combined with {self.second}: {self.reason}"


@dataclass(frozen=True)
class RebuildOptions:
    """
    What to rebuild, and how.

    Raises:
        OptionsConflict: two of these exclude each other.
        ValueError: a number is wrong.
    """

    types: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    stale: bool = False
    partition: Partition | None = None
    workers: int = 1
    resume: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name in ("types", "ids"):
            object.__setattr__(self, name, check_names(getattr(self, name), name))
        for name in ("stale", "resume", "dry_run"):
            check_flag(getattr(self, name), name)
        check_number(self.workers, "workers", 1)
        has_ids = self.ids is not None
        for is_conflict, first, second, reason in (
            (has_ids and self.workers > 1, "ids", "workers", "one process is enough"),
            (
                has_ids and bool(self.partition),
                "ids",
                "partition",
                "the ids already choose the streams",
            ),
            (
                has_ids and self.resume,
                "ids",
                "resume",
                "only full rebuilds record their progress",
            ),
            (
                self.stale and self.resume,
                "stale",
                "resume",
                "a stale rebuild always does only what is left",
            ),
            (
                self.dry_run and self.resume,
                "dry_run",
                "resume",
                "only rebuilds that write record their progress",
            ),
            (
                self.dry_run and self.stale,
                "dry_run",
                "stale",
                "a dry run already reports which snapshots are stale",
            ),
        ):
            if is_conflict:
                raise OptionsConflict(first, second, reason)

    @property
    def roots(self) -> list[Any]:
        """The classes of the streams."""
        if self.types is None:
            return list(registered_aggregates().values())
        return [root_of(aggregate_type) for aggregate_type in self.types]
