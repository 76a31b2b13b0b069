"""
What the bank wants to know across applications, updated as events arrive.

``manage.py run_subscriptions`` keeps both up to date. After a change here, run
``manage.py rebuild_projections``.
"""

from ossy_event_store import Projection, register_projection

from .aggregate import LoanApplication

COUNTED = {
    "A_SUBMITTED": "submitted",
    "O_CREATED": "offers",
    "O_ACCEPTED": "accepted",
    "A_APPROVED": "approved",
    "A_DECLINED": "declined",
}


@register_projection
class LoanDays(Projection):
    """For each day: applications, the amount requested, offers and decisions."""

    name = "loan_days"
    aggregate_types = [LoanApplication.aggregate_type]
    types = list(COUNTED)
    initial_state = {"amount": 0, **dict.fromkeys(COUNTED.values(), 0)}

    @staticmethod
    def key(event):
        return event["created"].date().isoformat()

    @staticmethod
    def apply(event, state):
        state[COUNTED[event["type"]]] += 1
        state["amount"] += event["payload"].get("amountRequested") or 0
        return state


@register_projection
class ClerkWork(Projection):
    """For each clerk: how many work items they finished, and of which kinds."""

    name = "clerk_work"
    aggregate_types = [LoanApplication.aggregate_type]
    initial_state = {"finished": 0, "kinds": {}, "last": None}
    indexes = ["state.finished"]  # the page sorts by it

    @staticmethod
    def key(event):
        is_finished = event["payload"].get("lifecycle") == "COMPLETE"
        is_work = event["type"].startswith("W_")
        return event.get("createdBy") if is_work and is_finished else None

    @staticmethod
    def apply(event, state):
        kind = event["type"].removeprefix("W_")
        state["kinds"][kind] = state["kinds"].get(kind, 0) + 1
        state["finished"] += 1
        state["last"] = max(filter(None, (state["last"], event["created"])))
        return state
