"""Events whose batches break off, as on a connection that breaks."""

from pymongo.errors import AutoReconnect


class Flaky:
    """
    Events whose batches break off.

    ``breaks`` says after how many batches, for each time they are opened.
    """

    def __init__(self, events, breaks, error=AutoReconnect):
        self.events = events
        self.breaks = iter(breaks)
        self.error = error
        self.opened = 0

    async def batches(self, query, size, **options):
        self.opened += 1
        left = next(self.breaks, 1000)
        async for batch in self.events.batches(query, size, **options):
            if not left:
                raise self.error("the primary is gone")
            yield batch
            left -= 1


async def no_pause(self, seconds):
    """Take the place of the pause between two attempts."""
