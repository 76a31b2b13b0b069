"""A read model over many streams that tells which events made it, in which order."""

from ossy_event_store import Projection, register_projection

from ..ledger import Ledger, account


@register_projection
class Chains(Projection):
    name = "chains"

    @staticmethod
    def key(event):
        return account(event)

    @staticmethod
    def apply(event, state):
        return Ledger.view([event], state)
