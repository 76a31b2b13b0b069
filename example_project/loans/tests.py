"""
The example, tested: rules and read models without a server, pages with a real one.

Run ``pytest loans/tests.py --ds=loans_site.settings`` in the folder of the project.
"""

import datetime as dt

import pytest
from django.urls import reverse

from ossy_event_store import Aggregate, EventStore
from ossy_event_store.testing import (
    appended,
    at,
    event,
    fault,
    given,
    run_subscriptions,
)

from .aggregate import STAGES, WORK, LoanApplication
from .labels import describe, kind
from .projections import COUNTED, ClerkWork, LoanDays
from .rules import NotOpen, must_be_open

NOON = dt.datetime(2012, 2, 29, 12, tzinfo=dt.UTC)
WITHDRAWN = {"type": "A_CANCELLED", "payload": {"reason": "withdrawn"}}
NOTHING = {"amount": 0, **dict.fromkeys(COUNTED.values(), 0)}
STREAM = {"aggregateId": "loan-1", "aggregateType": "LoanApplication"}


def submitted(amount=5000, **more):
    payload = {"amountRequested": amount, "applicant": "Jane"}
    return {"type": "A_SUBMITTED", "payload": payload, **more}


def work(name, lifecycle, **more):
    return {"type": f"W_{name}", "payload": {"lifecycle": lifecycle}, **more}


HISTORY = (
    submitted(created=NOON),
    {"type": "A_PARTLYSUBMITTED", "createdBy": "112"},
    work(WORK[0], "SCHEDULE", createdBy="112"),
    work(WORK[0], "START", createdBy="10912"),
    work(WORK[2], "START", createdBy="112"),
    work(WORK[0], "COMPLETE", createdBy="10912"),
    *("O_SELECTED", "O_CREATED", "O_SENT", "O_SENT_BACK", "O_CREATED", "O_ACCEPTED"),
    {"type": "A_APPROVED", "created": NOON + dt.timedelta(days=3)},
    "A_ACTIVATED",
)


# --- the reducer and the rules ------------------------------------------------


def test_the_state_of_an_application():
    application = given(LoanApplication, *HISTORY, aggregate_id="loan-1")
    assert application.fold_in_parts().state == {
        "id": "loan-1",
        "applicant": "Jane",
        "amount": 5000,
        "status": "approved",
        "stage": "Activated",
        "submitted": NOON,
        "decided": NOON + dt.timedelta(days=3),
        "offers": {
            **dict.fromkeys(("sent", "returned", "accepted"), 1),
            **dict.fromkeys(("declined", "cancelled"), 0),
            "created": 2,
        },
        "openWork": [WORK[2]],
        "workers": ["112", "10912"],
    }


def test_an_application_that_is_new_is_open():
    given(LoanApplication, submitted()).then_state(
        {"status": "open", "stage": "Submitted", "decided": None, "openWork": []}
    )


@pytest.mark.parametrize(("stage", "name"), STAGES.items())
def test_every_stage_has_its_name(stage, name):
    given(LoanApplication, submitted(), stage).fold_in_parts().then_state(
        {"stage": name, "amount": None if stage == "A_SUBMITTED" else 5000}
    )


@pytest.mark.parametrize(
    ("offer", "name"), [("O_DECLINED", "declined"), ("O_CANCELLED", "cancelled")]
)
def test_offers_that_end_otherwise_are_counted(offer, name):
    given(LoanApplication, submitted(), offer).then_state({"offers": {name: 1}})


def withdraw(application):
    application.validate(must_be_open).add(WITHDRAWN)


def test_an_open_application_can_be_withdrawn():
    given(LoanApplication, submitted(), "A_FINALIZED").when(withdraw).then(
        event("A_CANCELLED", reason="withdrawn")
    ).then_state({"status": "cancelled"})


@pytest.mark.parametrize(
    ("decision", "word"),
    [
        ("A_APPROVED", "approved"),
        ("A_DECLINED", "declined"),
        ("A_CANCELLED", "cancelled"),
    ],
)
def test_a_decided_one_cannot(decision, word):
    decided = given(LoanApplication, submitted(), decision)
    decided.when(withdraw).raises(NotOpen, match=f"already {word}\\.$")


# --- the read models and the labels -------------------------------------------


def test_what_is_counted_for_a_day():
    given(
        LoanDays,
        submitted(created=NOON),
        submitted(700, created=NOON + dt.timedelta(hours=11, minutes=59)),
        *("O_CREATED", "O_ACCEPTED", "A_APPROVED", "A_FINALIZED"),
        {"type": "A_DECLINED", "created": NOON + dt.timedelta(days=1)},
    ).then(
        {
            "2012-02-29": {
                **NOTHING,
                "submitted": 2,
                "amount": 5700,
                **dict.fromkeys(("offers", "accepted", "approved"), 1),
            },
            "2012-03-01": {**NOTHING, "declined": 1},
        }
    ).then_same_after_replay()


def test_what_a_clerk_has_finished():
    given(
        ClerkWork,
        submitted(),
        work(WORK[0], "COMPLETE", createdBy="112", created=NOON),
        work(WORK[1], "COMPLETE", createdBy="112", created=NOON - dt.timedelta(1)),
        work(WORK[0], "COMPLETE", createdBy="112", created=NOON - dt.timedelta(2)),
        work(WORK[0], "START", createdBy="113"),
        work(WORK[0], "COMPLETE"),
        {**WITHDRAWN, "payload": {"lifecycle": "COMPLETE"}, "createdBy": "114"},
    ).then(
        {"112": {"finished": 3, "kinds": {WORK[0]: 2, WORK[1]: 1}, "last": NOON}}
    ).then_same_after_replay()


def test_labels():
    assert describe(work(WORK[0], "START")) == "Handle the lead: started"
    assert describe(WITHDRAWN) == "Application: cancelled, withdrawn"
    assert describe({"type": "O_SENT", "payload": {}}) == "Offer sent"
    assert [kind({"type": name}) for name in ("A_X", "O_X", "W_X", "X")] == [
        *("application", "offer", "work", "other")
    ]


# --- the pages ----------------------------------------------------------------


@pytest.fixture
def loan(event_store):
    event_store.append_event({**STREAM, **submitted()})
    return reverse("loans:detail", args=["loan-1"])


def text(response):
    return response.content.decode()


def apply(client, **fields):
    data = {"applicant": "Jane", "amount": "12000", **fields}
    return client.post(reverse("loans:apply"), data, follow=True)


def test_a_person_applies(event_store, client):
    with appended() as log:
        page = apply(client)
    assert log == [event("A_SUBMITTED", amountRequested=12000, applicant="Jane")]
    assert "We received your application." in text(page)
    assert Aggregate.find(log[0]["aggregateId"])["state"]["amount"] == 12000


def test_the_same_form_twice_is_one_application(event_store, client):
    with appended() as log:
        first, second = (apply(client, key="k" * 21) for _ in range(2))
        other = apply(client, key="k" * 21, amount="700")
    assert log == ["A_SUBMITTED"]
    assert first.redirect_chain == second.redirect_chain
    assert "You already sent this form." in text(other)


def test_an_amount_out_of_bounds_is_refused(event_store, client):
    with appended() as log:
        assert "500" in text(apply(client, amount="499"))
        apply(client, amount="1000001")
    assert log == []


def test_a_person_withdraws_once(loan, client):
    with appended() as log:
        first, second = (client.post(f"{loan}withdraw/", follow=True) for _ in "12")
    assert log == [event("A_CANCELLED", reason="withdrawn by the applicant")]
    assert "has been withdrawn" in text(first)
    assert "already cancelled. It cannot be withdrawn." in text(second)
    assert Aggregate.find("loan-1")["state"]["status"] == "cancelled"


def test_a_clerk_is_faster(loan, client):
    with appended() as log, fault.race("loan-1", {"type": "A_APPROVED"}):
        page = client.post(f"{loan}withdraw/", follow=True)
    assert log == ["A_APPROVED"]
    assert "Someone else has just changed it." in text(page)


def test_an_application_that_does_not_exist(event_store, client):
    assert client.get(reverse("loans:detail", args=["x"])).status_code == 404
    assert client.post(reverse("loans:withdraw", args=["x"])).status_code == 404


def test_the_list_has_pages_and_a_search(event_store, client):
    for number in range(30):
        loan = {**submitted(), "aggregateId": f"loan-{number:02}"}
        Aggregate.of(LoanApplication, loan)
    run_subscriptions("snapshots")
    page = client.get(reverse("loans:list"))
    assert page.context["applications"][-1]["id"] == "loan-24"
    after = client.get(reverse("loans:list"), {"after": page.context["after"]})
    assert after.context["applications"][0]["id"] == "loan-25"
    assert after.context["after"] is None
    before = client.get(reverse("loans:list"), {"before": after.context["before"]})
    assert before.context["applications"] == page.context["applications"]
    found = client.get(reverse("loans:list"), {"q": "loan-1"})
    assert len(found.context["applications"]) == 10


def test_the_desk_follows(event_store, client):
    for number, day in enumerate((NOON, NOON + dt.timedelta(days=1))):
        with at(day):
            EventStore.append_event(
                {**submitted(), **STREAM, "aggregateId": f"l-{number}"}
            )
    for clerk, times in (("112", 1), ("10912", 2)):
        for _ in range(times):
            done = work(WORK[0], "COMPLETE", createdBy=clerk)
            EventStore.append_event({**done, **STREAM, "aggregateId": "l-0"})
    run_subscriptions()
    desk = client.get(reverse("loans:desk")).context
    assert [one["day"] for one in desk["days"]] == ["2012-03-01", "2012-02-29"]
    assert [one["name"] for one in desk["clerks"]] == ["10912", "112"]
    assert [one["most"] for one in desk["clerks"]] == [WORK[0], WORK[0]]
    assert desk["reached"] == {"loan_days": 5, "clerk_work": 5}
