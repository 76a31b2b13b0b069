"""The catalogue as plain text and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator

from ...documents.catalogue.compatibility.verdicts import Judgement
from ...documents.display import visible
from .listing import ListedField, ListedType, ListedUpcaster
from .stored import StoredTypes, StoredVersion

WIDTH = 88  # of the lines of a docstring
_DEFAULT = 60  # characters of a default


def text_lines(types: Iterable[ListedType]) -> Iterator[str]:
    """Yield the lines of plain text: a paragraph for each type."""
    for number, one in enumerate(types):
        if number:
            yield ""
        yield f"{visible(one.name)}  version {one.version}  {one.cls or '(no class)'}"
        if one.aliases:
            yield f"  aliases: {', '.join(map(visible, one.aliases))}"
        for line in one.doc.split("\n\n")[0].splitlines():
            yield from textwrap.wrap(
                visible(line), WIDTH, initial_indent="  ", subsequent_indent="  "
            )
        width = max((len(field.name) for field in one.fields), default=0)
        for field in one.fields:
            yield f"  {visible(field.name):{width}}  {_declared(field)}"
        for upcaster in one.upcasters:
            yield f"  {_from(upcaster)}: {upcaster.function}"
        for kind, names in one.named_by.items():
            yield f"  {kind}: {', '.join(map(visible, names))}"


def markdown_lines(types: Iterable[ListedType]) -> Iterator[str]:
    """Yield the lines of a page of Markdown: a section for each type."""
    yield "# Event types"
    for one in types:
        yield from ("", f"## {_code(one.name)} version {one.version}")
        if one.doc:
            yield from ("", _escaped(visible_lines(one.doc)))
        yield ""
        yield f"- Class: {_code(one.cls)}" if one.cls else "- Class: none"
        if one.aliases:
            yield f"- Aliases: {', '.join(map(_code, one.aliases))}"
        for upcaster in one.upcasters:
            yield f"- {_from(upcaster, _code)}: {_code(upcaster.function)}"
        for kind, names in one.named_by.items():
            yield f"- {kind.capitalize()}: {', '.join(map(_code, names))}"
        if one.fields:
            yield from ("", "| Field | Type | Required | Default |")
            yield "| --- | --- | --- | --- |"
        for field in one.fields:
            default = "" if field.default is None else _code(_short(field.default))
            required = "yes" if field.required else "no"
            cells = (_code(field.name), _code(field.type), required, default)
            yield _row(cells)


def judgement_lines(found: Iterable[Judgement]) -> Iterator[str]:
    """Yield what a change does to each type: the verdict, and the reasons."""
    for one in found:
        new = ", new" if one.is_new else ""
        yield f"{visible(one.type)}: {one.verdict.value}{new}"
        yield from (f"  breaking: {visible(reason)}" for reason in one.backward)
        yield from (f"  forward: {visible(reason)}" for reason in one.forward)


def stored_lines(found: StoredTypes, seconds: float) -> Iterator[str]:
    """Yield a line for each type and version that is stored."""
    if not found.versions:
        yield "No events are stored."
    width = max((len(visible(one.type)) for one in found.versions), default=0)
    for one in found.versions:
        yield f"{visible(one.type):{width}}  {_line(one)}".rstrip()
    if found.never_stored:
        yield f"Never stored: {', '.join(map(visible, found.never_stored))}"
    if not found.is_counted:
        yield f"Not counted in full: --max-time {seconds:g} did not suffice."


def _line(one: StoredVersion) -> str:
    count = "?" if one.count is None else f"{one.count:,}"
    last = getattr(one.last, "isoformat", None)
    time = last(sep=" ", timespec="seconds") if last else ""
    reason = f": {one.reason}" if one.reason else ""
    standing = f"{one.standing.value}{reason}"
    return f"version {one.version}  {count:>12}  {time:25}  {standing}"


def visible_lines(text: str) -> str:
    """Return a text of several lines, in which every other character is visible."""
    return "\n".join(map(visible, text.splitlines()))


def _declared(field: ListedField) -> str:
    if field.default is not None:
        return f"{visible(field.type)} = {_short(field.default)}"
    return visible(field.type) + ("" if field.required else " (optional)")


def _short(default: str) -> str:
    shown = visible(default)
    return shown if len(shown) <= _DEFAULT else f"{shown[: _DEFAULT - 1]}…"


def _from(upcaster: ListedUpcaster, spell: Callable[[str], str] = visible) -> str:
    targets = ", ".join(
        f"{spell(name)} version {version}" for name, version in upcaster.into.items()
    )
    return f"upcaster from version {upcaster.version}" + (
        f", also into {targets}" if targets else ""
    )


def _row(cells: Iterable[str]) -> str:
    inner = " | ".join(cell.replace("|", r"\|") for cell in cells)
    return f"| {inner} |"


def _code(text: str | None) -> str:
    """Return a text as code, whatever characters it has."""
    shown = visible(text or "")
    fence = "`"
    while fence in shown:
        fence += "`"
    pad = " " if len(fence) > 1 or shown != shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _escaped(text: str) -> str:
    """Return a docstring, in which nothing becomes HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
