"""
English labels for events, as the pages display them.

Event types stay as they were recorded, because they are history. Labels are for
people and may change at any time, without a rebuild.
"""

from .aggregate import STAGES

WORK_ITEMS = {
    "Afhandelen leads": "Handle the lead",
    "Beoordelen fraude": "Assess fraud",
    "Completeren aanvraag": "Complete the application",
    "Nabellen incomplete dossiers": "Call about an incomplete file",
    "Nabellen offertes": "Call about the offer",
    "Valideren aanvraag": "Validate the application",
    "Wijzigen contractgegevens": "Change contract details",
}
LIFECYCLES = {
    "SCHEDULE": "planned",
    "START": "started",
    "COMPLETE": "finished",
}
OFFERS = {
    "O_SELECTED": "Terms selected for an offer",
    "O_CREATED": "Offer created",
    "O_SENT": "Offer sent",
    "O_SENT_BACK": "Offer returned by the applicant",
    "O_ACCEPTED": "Offer accepted",
    "O_DECLINED": "Offer declined",
    "O_CANCELLED": "Offer cancelled",
}
KINDS = {"A": "application", "O": "offer", "W": "work"}


def work_item(name):
    """Return the English name of a work item, or the name itself."""
    return WORK_ITEMS.get(name, name)


def kind(event):
    """Return what the event is about: application, offer, work or other."""
    return KINDS.get(event["type"].partition("_")[0], "other")


def describe(event):
    """Return an event as a short line of English."""
    name = event["type"]
    payload = event["payload"]
    if name.startswith("W_"):
        done = LIFECYCLES.get(payload.get("lifecycle"), "changed")
        return f"{work_item(name.removeprefix('W_'))}: {done}"
    if name in STAGES:
        words = [STAGES[name].lower(), payload.get("reason")]
        return "Application: " + ", ".join(filter(None, words))
    return OFFERS.get(name, name)
