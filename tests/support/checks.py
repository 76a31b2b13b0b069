"""Messages of the system checks."""

import pytest
from django.conf import settings

DEFAULT = ["default"]
ONLY_URL = pytest.mark.skipif(
    settings.STORE != "url", reason="the store is found in DATABASES"
)


def ids(messages):
    """Return the ids of messages, without the name of the app."""
    return [message.id.removeprefix("ossy_event_store.") for message in messages]
