"""The chart of the events a day, as the numbers that its drawing is made of."""

from __future__ import annotations

from typing import Any

from .overview import Day


def chart(days: list[Day]) -> dict[str, Any]:
    """Return the bars of a chart of the events a day, in units of its own."""
    above, height, below, wide, step = 16, 120, 18, 40, 48
    most = max([1, *(day.events for day in days)])
    bars = []
    for number, day in enumerate(days):
        high = round(height * day.events / most)
        bars.append(
            {
                "day": day,
                "x": number * step + (step - wide) // 2,
                "y": above + height - high,
                "middle": number * step + step // 2,
                "width": wide,
                "height": high,
                "top": above + height - high - 4,
            }
        )
    return {
        "width": step * len(days),
        "height": above + height + below,
        "floor": above + height,
        "bars": bars,
    }
