"""Whatever an id contains, its pages have addresses, and its files have names."""

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from ossy_event_store import EventStore
from ossy_event_store.admin.addresses import from_address, in_address
from ossy_event_store.admin.base import attachment
from tests.support.admin import ALL, NOT_ON_DJONGO, url

IDS = [
    "-V1StGXR8_Z5jdHi6B-my",
    "/",
    "a/b?c#d",
    "a?b=c",
    "100%",
    "a%2Fb",
    "..",
    ".",
    "../../..",
    "...",
    "_2E",
    "_2F",
    "a b",
    " a ",
    "\"quoted\" and 'quoted'",
    "<script>alert(1)</script>",
    "a\nb\r\nc",
    "a\tb",
    "a\\b",
    "a&amp;b",
    "\U0001f600",
    "\u202eabc\u2066",
    "\u05d0\u05d1",
    "a\u2028b",
    "$(rm -rf ~)`x`;",
    "add",
    "1/change",
    "\u65e5" * 255,
]


@pytest.mark.parametrize("one", IDS)
def test_an_id_comes_back_from_its_address(one):
    assert from_address(in_address(one)) == one
    assert in_address(one) not in (".", "..")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("-rf.jsonl", "rf.jsonl"),
        ("..jsonl", "jsonl"),
        ('a";\r\nX: y.jsonl', "a____X__y.jsonl"),
        ("\u202e", "_"),
        ("-", "_"),
        ("x" * 300 + ".jsonl", "x" * 144 + ".jsonl"),
    ],
)
def test_a_file_has_a_safe_name(name, file):
    assert attachment(name) == f'attachment; filename="{file}"'


class Links(HTMLParser):
    def __init__(self, response):
        super().__init__()
        self.found = []
        self.feed(response.content.decode())

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if (tag, name) == ("a", "href")]


@NOT_ON_DJONGO
@pytest.mark.django_db
@pytest.mark.parametrize("one", IDS[::2])
def test_each_link_to_an_id_leads_to_its_page(store, staff, one):
    event = {"aggregateType": "Book", "type": "BookBought", "payload": {}}
    EventStore.append_event({**event, "aggregateId": one, "id": one})
    client = staff(*ALL)
    pages, shown = [client.get(url("stream")), client.get(url("event"))], set()
    while pages:
        page = pages.pop()
        assert page.status_code == 200
        assert "<script>alert" not in page.content.decode()
        here = page.wsgi_request.get_full_path()
        for link in Links(page).found:
            # As a browser does, which resolves the dots in a path.
            target = urlsplit(urljoin(f"http://testserver{here}", link))
            address = f"{target.path}?{target.query}"
            if not re.search(r"/(stream|event)/.+/", target.path) or address in shown:
                continue
            shown.add(address)
            response = client.get(address)
            assert response.status_code == 200, link
            if "download" in target.path or "state" in target.path:
                name = response.headers["Content-Disposition"]
                assert re.fullmatch(r'attachment; filename="\w[\w.-]*"', name)
            elif target.path.endswith("change/"):
                pages.append(response)
    kinds = {address.split("/")[-2] for address in shown}
    assert {"change", "download"} <= kinds
