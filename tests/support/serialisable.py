"""
Is a history of conditional appends serialisable? Pure.

Each event says in its metadata which versions of other streams it was conditional on.
It comes after the events that it knew, and before the next ones of those streams. If
these demands contradict each other, no order of the appends one by one explains them.
"""


def order_of(events):
    """
    Return the events in an order that explains them, as pairs of stream and version.

    Raises:
        ValueError: there is none.
    """
    after = {}
    for event in events:
        stream, version = event["aggregateId"], event["aggregateVersion"]
        after.setdefault((stream, version), set())
    for event in events:
        own = event["aggregateId"], event["aggregateVersion"]
        _let_follow(after, own, (own[0], own[1] + 1))
        for stream, version in event["metadata"].get("read", {}).items():
            _let_follow(after, (stream, version), own)
            _let_follow(after, own, (stream, version + 1))
    return _sorted(after)


def _let_follow(after, first, second):
    if first in after and second in after:
        after[first].add(second)


def _sorted(after):
    waits_for = dict.fromkeys(after, 0)
    for followers in after.values():
        for one in followers:
            waits_for[one] += 1
    ready = [one for one, count in waits_for.items() if not count]
    result = []
    while ready:
        result.append(ready.pop())
        for one in after[result[-1]]:
            waits_for[one] -= 1
            if not waits_for[one]:
                ready.append(one)
    if len(result) < len(after):
        circle = sorted(one for one, count in waits_for.items() if count)
        raise ValueError(f"no order explains {len(circle)} events, first {circle[:4]}")
    return result
