"""Read the inserts into a collection from its change stream, in commit order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from ..documents.bson_types import Document

BATCH_SIZE = 500  # changes a round trip

# CappedPositionLost, InvalidResumeToken, ChangeStreamFatalError and -HistoryLost.
HISTORY_LOST_CODES = frozenset({136, 260, 280, 286})


class HistoryLost(Exception):
    """The change stream cannot resume from where it was."""


class ChangeStream:
    """
    The inserts into a collection, in the order of their commits.

    The driver's own change stream waits for more changes before it returns those it
    has; this one returns whatever has arrived as one batch.

    Args:
        documents: the collection.
        token: resume after this token; None starts now.
        fields: the fields of a document to return, besides ``_id``.
        batch_size: changes a round trip, at most.

    Raises:
        HistoryLost: the server no longer has the changes after ``token``.
    """

    def __init__(
        self,
        documents: Collection[Document],
        token: Any = None,
        fields: Sequence[str] = (),
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._database = documents.database
        self._name = documents.name
        self._batch_size = batch_size
        options = self._database.client.options
        self._socket_seconds = options.pool_options.socket_timeout
        self._session: ClientSession = self._database.client.start_session()
        stage = {"resumeAfter": token} if token is not None else {}
        projection = {f"fullDocument.{name}": 1 for name in ("_id", *fields)}
        try:
            # An empty first batch: so there is a token right from the start.
            self._run(
                "aggregate",
                self._name,
                pipeline=[
                    {"$changeStream": stage},
                    {"$match": {"operationType": {"$in": ["insert", "invalidate"]}}},
                    {"$project": {"operationType": 1, **projection}},
                ],
                cursor={"batchSize": 0},
                readConcern={"level": "majority"},
            )
        except BaseException:
            self._session.end_session()
            raise

    def fetch(self, wait: float) -> list[tuple[Document, Any]]:
        """
        Return the next inserts, each with its token.

        Args:
            wait: seconds to wait for one if there is none yet.
        """
        if (limit := self._socket_seconds) is not None:
            wait = min(wait, limit / 2)  # else the driver closes the connection
        batch = self._run(
            "getMore",
            self._id,
            collection=self._name,
            batchSize=self._batch_size,
            maxTimeMS=max(1, round(wait * 1000)),
        )
        changes = [c for c in batch if c["operationType"] == "insert"]
        if not self._id or len(changes) < len(batch):
            raise HistoryLost
        return [(change["fullDocument"], change["_id"]) for change in changes]

    def close(self) -> None:
        """Close the cursor on the server."""
        try:
            if self._id:
                with suppress(PyMongoError):
                    self._database.command(
                        "killCursors",
                        self._name,
                        cursors=[self._id],
                        session=self._session,
                    )
        finally:
            self._session.end_session()

    def _run(self, name: str, value: Any, **options: Any) -> list[Document]:
        """Run a cursor command and return its batch; note cursor id and token."""
        try:
            answer = self._database.command(
                name, value, session=self._session, **options
            )
        except OperationFailure as error:
            if error.code in HISTORY_LOST_CODES:
                raise HistoryLost from error
            raise
        cursor = answer["cursor"]
        self._id = cursor["id"]
        self.token = cursor["postBatchResumeToken"]
        found: list[Document] = cursor.get("nextBatch", [])
        return found
