"""Settings of the processes of the run; ``CHAOS`` in the environment says where."""

import json
import os

HERE = json.loads(os.environ["CHAOS"])

INSTALLED_APPS = [
    "ossy_event_store",
    "ossy_event_store.relational",
    "tests.chaos.outbox",
]
DATABASES = {"default": HERE["sql"]}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
OSSY_EVENT_STORE = {"URL": HERE["url"], "NAME": HERE["database"], "TIMEOUT": 5.0}
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"ossy_event_store": {"handlers": ["stderr"]}},
}
