from ossy_event_store import subscription

from .models import Loan

mails = []


class NoAddress(Exception):
    pass


@subscription("mails", types=["BookLent"])
def send(event):
    if not event["payload"]["to"]:
        raise NoAddress(event["aggregateId"])
    mails.append(event["payload"]["to"])


@subscription("loans", types=["BookLent"], using="default")
def insert(event):
    Loan.objects.create(book=event["aggregateId"], reader=event["payload"]["to"])


@subscription("async_loans", types=["BookLent"])
async def insert_too(event):
    await Loan.objects.acreate(book=event["aggregateId"], reader="async")
