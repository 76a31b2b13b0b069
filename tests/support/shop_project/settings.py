"""A small project that has nothing but the test kit: no conftest, no fixtures."""

import os

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["ossy_event_store", "ossy_event_store.relational", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
OSSY_EVENT_STORE = {
    "URL": os.environ["SHOP_URL"],
    "NAME": os.environ["SHOP_NAME"],
}
