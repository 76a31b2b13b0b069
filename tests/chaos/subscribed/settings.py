"""Settings of the processes of the run; ``CHAOS`` in the environment says where."""

import json
import os

_HERE = json.loads(os.environ["CHAOS"])

FOLDER = _HERE["folder"]
INSTALLED_APPS = [
    "ossy_event_store",
    "ossy_event_store.relational",
    "tests.chaos.subscribed",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _HERE["rows"],
        # Longer than the run freezes anybody, who may hold the lock of the file.
        "OPTIONS": {"timeout": 60},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
OSSY_EVENT_STORE = {
    "URL": _HERE["url"],
    "NAME": _HERE["database"],
    "TIMEOUT": _HERE["timeout"],
}
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"timed": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "timed"}},
    "loggers": {"ossy_event_store": {"handlers": ["stderr"]}},
}
