"""The JSON Schema of each event type and version, as files."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...documents.bson_types import Document
from ...documents.catalogue.compatibility.event_types import KnownTypes
from ...documents.catalogue.compatibility.file_names import file_names
from ...documents.catalogue.compatibility.json_schema import DIALECT
from ...documents.catalogue.compatibility.lock import Lock


def schema_files(known: KnownTypes, lock: Lock) -> Iterator[tuple[str, str]]:
    """
    Yield the name and the text of a file for each type and version.

    Args:
        known: what the code knows: the current versions.
        lock: the earlier ones; an empty lock has none.
    """
    names = file_names(sorted({*known.types, *lock.types}))
    for name, file_name in names.items():
        schemas = _schemas(name, known, lock)
        for version, schema in sorted(schemas.items()):
            document = {"$schema": DIALECT, **schema}
            text = json.dumps(document, indent=2, ensure_ascii=False)
            yield f"{file_name}.{version}.json", f"{text}\n"


def _schemas(name: str, known: KnownTypes, lock: Lock) -> dict[int, Document]:
    found: dict[int, Document] = {}
    if (locked := lock.types.get(name)) is not None:
        for version, shapes in locked.versions.items():
            if shapes:
                found[version] = _any_of(name, list(shapes))
    code = known.types.get(name)
    if code is not None and code.schema is not None:
        found[code.version] = {**code.schema, "title": name}
    return found


def _any_of(name: str, shapes: list[Document]) -> Document:
    if len(shapes) == 1:
        return {"title": name, **shapes[0]}
    return {"title": name, "anyOf": shapes}
