"""The aggregate whose snapshots follow; its reducer fails at bad events."""

from django.conf import settings

from ossy_event_store import register_aggregate

from ..ledger import Ledger
from .effects import FOLLOWING
from .failing import Failing

fail_if_bad = Failing(settings.FOLDER)


@register_aggregate
class FailingLedger(Ledger):
    """For the subscribers alone: the writers fold without a failure."""

    @staticmethod
    def view(events, saved_state):
        for event in events:
            fail_if_bad(FOLLOWING, event)
        return Ledger.view(events, saved_state)
