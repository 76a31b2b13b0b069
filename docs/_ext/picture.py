"""The picture of the architecture: a dozen boxes and their arrows, drawn as an SVG."""

from itertools import pairwise
from statistics import mean

from rooms import grouped, layers, rooms

# The boxes of the picture: what each is about, and its rooms.
BOXES = {
    "commands": ("manage.py", {"management"}),
    "testing": ("test kit", {"testing"}),
    "admin": ("pages, template tag", {"admin", "models", "templatetags"}),
    "Django hooks": (
        "apps, checks, middleware",
        {"apps", "checks", "middleware", "post_migrate"},
    ),
    "push": ("server-sent events", {"push"}),
    "monitoring": ("status, health, metrics", {"health", "metrics", "monitoring"}),
    "verification": ("is the store sound?", {"verification", "verify"}),
    "projections": ("read models", {"projections"}),
    "subscriptions": ("handlers, checkpoints", {"relational", "subscriptions"}),
    "rebuild": ("snapshots from events", {"rebuild"}),
    "aggregates": (
        "aggregate, event_store",
        {"aggregate", "event_store"},
    ),
    "positions": ("the global order", {"positions"}),
    "streams": ("append, load, transactions", {"streams"}),
    "mongodb": ("connection, indexes, leases", {"mongodb"}),
    "documents": ("events and values, no I/O", {"documents"}),
    "foundation": (
        "conf, embedded, exceptions",
        {"conf", "embedded", "exceptions"},
    ),
}

WIDTH, HEIGHT = 208, 52  # of a box
LANE = 14  # the width that an arrow gets in a row that it passes
GAP, FLOOR = 18, 92  # between boxes of a row; from row to row


def boxes():
    """Return every box of the picture with the boxes that it imports directly."""
    box_of = {room: box for box, (_, members) in BOXES.items() for room in members}
    return reduced(grouped(rooms(), box_of.get))


def reduced(arrows):
    """Return arrows without those that a longer way over other arrows implies."""
    reach = {}
    for layer in layers(arrows):
        for name in layer:
            reach[name] = arrows[name].union(*(reach[other] for other in arrows[name]))
    return {
        name: {used for used in uses if not any(used in reach[one] for one in uses)}
        for name, uses in arrows.items()
    }


def svg_lines():
    """Draw the boxes and arrows as an SVG, in the colour of the text around it."""
    arrows = boxes()
    rows, ways = routed(arrows)
    at = _places(rows)
    width = max(x + _size(stop) / 2 for stop, (x, _) in at.items()) + 4
    height = (len(rows) - 1) * FLOOR + HEIGHT + 8
    words = "; ".join(
        f"{name} imports {' and '.join(sorted(uses))}"
        for name, uses in arrows.items()
        if uses
    )
    return [
        '<div style="overflow-x: auto" tabindex="0">',
        f'<svg role="img" aria-label="The parts of the package: {words}." '
        f'viewBox="0 0 {width:g} {height:g}" '
        f'style="width: 100%; min-width: 38rem; max-width: {width:g}px">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/>'
        "</marker></defs>",
        '<g fill="none" stroke="currentColor" stroke-opacity="0.6">',
        *(_arrow([at[stop] for stop in way]) for way in ways),
        '</g><g text-anchor="middle" fill="currentColor">',
        *(line for name in arrows for line in _box(name, *at[name])),
        "</g></svg></div>",
    ]


def _box(name, x, y):
    yield (
        f'<rect x="{x - WIDTH / 2:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" '
        'rx="6" fill-opacity="0.07" stroke="currentColor"/>'
    )
    for text, down, font in (
        (name, 23, 'font-size="17" font-weight="600"'),
        (BOXES[name][0], 41, 'font-size="12"'),
    ):
        yield f'<text x="{x:g}" y="{y + down:g}" {font}>{text}</text>'


def _arrow(points):
    """Return the line of an arrow from one box down to another."""
    (x, y), *rest = points
    path = f"M{x:g} {y + HEIGHT:g}"
    for to_x, to_y in rest:
        middle = (y + HEIGHT + to_y) / 2
        path += f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
        if (to_x, to_y) != rest[-1]:
            path += f"V{to_y + HEIGHT:g}"
        x, y = to_x, to_y
    return f'<path d="{path}" marker-end="url(#tip)"/>'


def routed(arrows):
    """
    Return the rows of the picture, from the top down, and the way of each arrow.

    An arrow that passes rows gets a stop in each: a tuple of its ends and the row.
    """
    floors = list(reversed(layers(arrows)))
    floor_of = {name: n for n, floor in enumerate(floors) for name in floor}
    rows = [sorted(floor, key=list(arrows).index) for floor in floors]
    ways = []
    for name, uses in arrows.items():
        for other in sorted(uses):
            passed = range(floor_of[name] + 1, floor_of[other])
            stops = [(name, other, n) for n in passed]
            for n, stop in zip(passed, stops, strict=True):
                rows[n].append(stop)
            ways.append([name, *stops, other])
    near = {stop: [] for row in rows for stop in row}
    for way in ways:
        for one, other in pairwise(way):
            near[one].append(other)
            near[other].append(one)
    for _ in range(12):
        for row in [*rows, *reversed(rows)]:
            _sort_by_neighbours(row, near, _places(rows))
    return rows, ways


def _sort_by_neighbours(row, near, at):
    """Order a row by the middle of each stop's neighbours, so that few arrows cross."""
    row.sort(key=lambda stop: mean(at[one][0] for one in near[stop] or [stop]))


def _places(rows):
    """Return the middle of each stop's upper side; the rows are centred."""
    widths = [sum(_size(stop) + GAP for stop in row) for row in rows]
    at = {}
    for n, row in enumerate(rows):
        x = (max(widths) - widths[n]) / 2 + 4
        for stop in row:
            at[stop] = (x + _size(stop) / 2, n * FLOOR + 4)
            x += _size(stop) + GAP
    return at


def _size(stop):
    return WIDTH if isinstance(stop, str) else LANE
