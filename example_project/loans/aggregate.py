"""
The state of a loan application, as a pure fold over its events.

No I/O, no clock, no Django: a test calls ``LoanApplication.view`` with a list.
The event store finds this module by its name and registers its last two exports.
"""

# One entry for each stage of an application, as the pages display it. `stage` in the
# state is the latest one; three of them also decide the application.
STAGES = {
    "A_SUBMITTED": "Submitted",
    "A_PARTLYSUBMITTED": "Partly submitted",
    "A_PREACCEPTED": "Pre-accepted",
    "A_ACCEPTED": "Accepted for review",
    "A_FINALIZED": "File complete",
    "A_APPROVED": "Approved",
    "A_REGISTERED": "Registered",
    "A_ACTIVATED": "Activated",
    "A_DECLINED": "Declined",
    "A_CANCELLED": "Cancelled",
}
DECISIONS = {
    "A_APPROVED": "approved",
    "A_DECLINED": "declined",
    "A_CANCELLED": "cancelled",
}
# O_SELECTED is left out: each one comes with an O_CREATED and adds nothing.
OFFERS = {
    "O_CREATED": "created",
    "O_SENT": "sent",
    "O_SENT_BACK": "returned",
    "O_ACCEPTED": "accepted",
    "O_DECLINED": "declined",
    "O_CANCELLED": "cancelled",
}
WORK = (
    "Afhandelen leads",
    "Beoordelen fraude",
    "Completeren aanvraag",
    "Nabellen incomplete dossiers",
    "Nabellen offertes",
    "Valideren aanvraag",
    "Wijzigen contractgegevens",
)


class LoanApplication:
    """One application for a loan; its id is the id of its stream."""

    aggregate_type = "LoanApplication"

    @staticmethod
    def view(events, saved_state):
        """
        Fold ``events`` (ascending by version) onto ``saved_state``.

        ``saved_state`` is ``{}``, or what an earlier call returned for the events
        before these. Changes neither argument. An event of an unknown type changes
        only the list of workers.
        """
        state = _copy(saved_state)
        workers = state["workers"]
        for event in events:
            if state["id"] is None:
                state["id"] = event["aggregateId"]
                state["submitted"] = event["created"]
            who = event.get("createdBy")
            if who is not None and who not in workers:
                workers.append(who)
            apply = _APPLY.get(event["type"])
            if apply is not None:
                apply(state, event)
        return state


def _copy(saved_state):
    state = {
        "id": None,
        "applicant": None,
        "amount": None,
        "status": "open",
        "stage": None,
        "submitted": None,
        "decided": None,
        "offers": {},
        "openWork": [],
        "workers": [],
        **saved_state,
    }
    state["offers"] = dict.fromkeys(OFFERS.values(), 0) | state["offers"]
    state["openWork"] = list(state["openWork"])
    state["workers"] = list(state["workers"])
    return state


def _submit(state, event):
    payload = event["payload"]
    state["amount"] = payload.get("amountRequested")
    state["applicant"] = payload.get("applicant")
    _advance(state, event)


def _advance(state, event):
    state["stage"] = STAGES[event["type"]]


def _decide(state, event):
    state["status"] = DECISIONS[event["type"]]
    state["decided"] = event["created"]
    _advance(state, event)


def _count_offer(state, event):
    state["offers"][OFFERS[event["type"]]] += 1


def _work(state, event):
    # A work item has no id, and one SCHEDULE leads to many pairs of START and
    # COMPLETE: in the bank's log, 24,429 of 71,376 STARTs follow a SCHEDULE and 46,945
    # follow a COMPLETE. So counting goes wrong: 1,040 items end with more COMPLETEs
    # than STARTs. Only the last event of each name is reliable: SCHEDULE and START
    # open the item, COMPLETE closes it.
    name = event["type"].removeprefix("W_")
    is_open = name in state["openWork"]
    if event["payload"].get("lifecycle") == "COMPLETE":
        if is_open:
            state["openWork"].remove(name)
    elif not is_open:
        state["openWork"].append(name)


_APPLY = (
    dict.fromkeys(STAGES, _advance)
    | dict.fromkeys(DECISIONS, _decide)
    | dict.fromkeys(OFFERS, _count_offer)
    | dict.fromkeys((f"W_{name}" for name in WORK), _work)
    | {"A_SUBMITTED": _submit}
)


# ossy_event_store looks for these two in the `aggregate` module of an installed app.
Aggregate = LoanApplication
id = "LoanApplication"  # noqa: A001 - the library requires this name
