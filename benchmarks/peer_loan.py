"""The aggregate for eventsourcing, which imports it by the name of its module."""

from eventsourcing.domain import Aggregate, event


class PeerLoan(Aggregate):
    def __init__(self):
        self.amount, self.events = None, 0

    @event("Submitted")
    def submit(self, amount, note):
        self.amount, self.events = amount, self.events + 1
