"""Request every page of the site, and say which one does not work."""

import re
import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.urls import reverse

INLINE = re.compile(r"<script>|<style|\sstyle=|\son\w+=|javascript:")


def main(folder):
    settings.STATIC_ROOT = folder
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("collectstatic", verbosity=0)
    from django.test import Client

    from ossy_event_store import Aggregate
    from tests.library.aggregate import Book
    from tests.support.other_site.people.models import Person

    for number in range(60):
        bought = {"type": "BookBought", "aggregateId": f"book-{number}"}
        Aggregate.of(Book, bought)
    book = Aggregate.of(Book, "book-1").add({"type": "BookReturned"}).save()
    client = Client()
    client.force_login(
        Person.objects.create(address="ann@b.example", is_superuser=True)
    )
    event = str(book.events[0]["_id"])
    for model, page, *args in (
        ("stream", "changelist"),
        ("stream", "overview"),
        ("stream", "change", book.id),
        ("stream", "state", book.id),
        ("event", "changelist"),
        ("event", "change", event),
        ("event", "download", event),
        ("subscription", "changelist"),
        ("subscription", "change", "snapshots"),
    ):
        check(client, reverse(f"admin:ossy_event_store_{model}_{page}", args=args))
    rebuild = reverse("admin:ossy_event_store_stream_rebuild", args=[book.id])
    assert client.post(inside(rebuild)).status_code == 302
    assert client.get("/health/").status_code in (200, 503)
    sys.stdout.write("all pages work\n")


def inside(address):
    """Return an address as the site sees it, after the server took its prefix off."""
    assert address.startswith("/shop/desk/"), address
    return address.removeprefix("/shop")


def check(client, address):
    response = client.get(inside(address))
    assert response.status_code == 200, (address, response.status_code)
    html = response.content.decode()
    if "html" not in response["Content-Type"]:
        return
    main = html[html.index('id="main"') :]
    assert not INLINE.search(main), (address, INLINE.search(main))
    for link in re.findall(r'(?:href|src|action)="([^"#?]+)', html):
        assert f"{link}/".startswith("/shop/"), (address, link)
    own = re.findall(r"/static/ossy_event_store/(\S+?)\"", html)
    assert own, address
    assert all(re.search(r"\.[0-9a-f]{12}\.", name) for name in own), own


main(sys.argv[1])
