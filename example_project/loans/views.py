"""
The pages. They read snapshots or streams, and write by adding an event.

These are plain Django views; only the few lines that use ``Aggregate`` and
``EventStore`` concern the library.
"""

from functools import wraps

from django.contrib import messages
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ossy_event_store import (
    Aggregate,
    AggregateNotFound,
    AggregateTypeMismatch,
    ConcurrencyError,
    EventStore,
    IdempotencyConflict,
)
from ossy_event_store.push.views import EventSourceView

from .aggregate import LoanApplication
from .forms import ApplyForm
from .projections import ClerkWork, LoanDays
from .rules import NotOpen, must_be_open

PER_PAGE = 25
DAYS = 14
CLERKS = 20
LAST = "\U0010ffff"  # sorts after every other character


def not_found_page(view):
    """Respond with the site's own 404 page if the application does not exist."""

    @wraps(view)
    def wrapped(request, application_id):
        try:
            return view(request, application_id)
        except (AggregateNotFound, AggregateTypeMismatch):
            context = {"application_id": application_id}
            return render(request, "404.html", context, status=404)

    return wrapped


@require_GET
def application_list(request):
    prefix = request.GET.get("q", "").strip()
    after, before = request.GET.get("after", ""), request.GET.get("before", "")
    context = {"q": prefix, **read_page(prefix, after, before)}
    return render(request, "loans/list.html", context)


def read_page(prefix, after, before):
    """
    Return one page of snapshots whose id starts with ``prefix``, by id.

    The page starts after the id ``after`` or ends before the id ``before``, so later
    pages cost no more than the first. The store's index on type and id covers it.
    """
    ids = {"$gte": prefix, "$lt": prefix + LAST}
    if before:
        ids["$lt"] = min(before, ids["$lt"])
    elif after:
        ids["$gt"] = after
    found = list(
        Aggregate.collection.find(
            {"aggregateType": LoanApplication.aggregate_type, "_id": ids},
            projection={"state": 1},
            sort=[("_id", -1 if before else 1)],
            limit=PER_PAGE + 1,  # one more, to know whether there is a next page
        )
    )
    page, more = found[:PER_PAGE], len(found) > PER_PAGE
    if before:
        page.reverse()
    first, last = (page[0]["_id"], page[-1]["_id"]) if page else (None, None)
    return {
        "applications": [
            {"id": snapshot["_id"], **snapshot["state"]} for snapshot in page
        ],
        "before": first if (more if before else after) else None,
        "after": last if (before or more) else None,
    }


@require_http_methods(["GET", "POST"])
def apply(request):
    form = ApplyForm(request.POST or None)
    if not form.is_valid():
        return render(request, "loans/apply.html", {"form": form})
    try:
        application = Aggregate.of(LoanApplication, form.event()).save()
    except IdempotencyConflict:
        messages.error(request, "You already sent this form. Please fill in a new one.")
        return redirect("loans:apply")
    messages.success(request, "We received your application.")
    return redirect("loans:detail", application.id)


@require_GET
@not_found_page
def detail(request, application_id):
    # Read before the events: anything missing on the page is after this position.
    position = EventStore.head_position()
    application = Aggregate.of(LoanApplication, application_id)
    context = {
        "application": application.view(),
        "version": application.version,
        "position": position,
        "history": EventStore.get_event_stream(application_id),
    }
    return render(request, "loans/detail.html", context)


@require_GET
def desk(request):
    # Read before the documents: anything missing in them is after this position.
    reached = {cls.name: cls.reached() for cls in (LoanDays, ClerkWork)}
    days = LoanDays.collection.find(sort=[("_id", -1)], limit=DAYS)
    clerks = ClerkWork.collection.find(sort=[("state.finished", -1)], limit=CLERKS)
    context = {
        "reached": reached,
        "days": [{"day": day["_id"], **day["state"]} for day in days],
        "clerks": [
            {
                "name": clerk["_id"],
                "most": max(clerk["state"]["kinds"], key=clerk["state"]["kinds"].get),
                **clerk["state"],
            }
            for clerk in clerks
        ],
    }
    return render(request, "loans/desk.html", context)


class DeskEvents(EventSourceView):
    """Notifies the desk's page when one of its projections has applied an event."""

    query = ["projection"]

    async def may_see(self, request, wanted):
        return wanted.projection in (LoanDays.name, ClerkWork.name)


class ApplicationEvents(EventSourceView):
    """Notifies an application's page when its stream gets an event."""

    aggregate_types = [LoanApplication.aggregate_type]

    async def may_see(self, request, wanted):
        return True  # everyone may see the page


@require_POST
@not_found_page
def withdraw(request, application_id):
    event = {
        "type": "A_CANCELLED",
        "payload": {"lifecycle": "COMPLETE", "reason": "withdrawn by the applicant"},
    }
    try:
        application = Aggregate.of(LoanApplication, application_id)
        application.validate(must_be_open).add(event).save()
    except NotOpen as error:
        messages.error(request, f"{error} It cannot be withdrawn.")
    except ConcurrencyError:
        messages.warning(
            request,
            "Someone else has just changed it. Check it again, then decide.",
        )
    else:
        messages.success(request, "The application has been withdrawn.")
    return redirect("loans:detail", application_id)
