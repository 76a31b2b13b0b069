"""
Settings of the test run.

The event store's server is ``TEST_MONGODB_URL`` if that is set, else an embedded
one of this run's own. ``TEST_STORE`` says how the store reaches it: by ``url``,
through a ``django_mongodb_backend`` alias, or through a ``djongo`` alias.
"""

import os
import tempfile
from pathlib import Path

from ossy_event_store import embedded

SERVER = os.environ.get("TEST_MONGODB_URL") or embedded.start("")
STORE = os.environ.get("TEST_STORE", "url")
# Who may empty the store between tests, where the user of SERVER may only append.
ADMIN = os.environ.get("TEST_MONGODB_ADMIN_URL")
TEMPORARY = Path(tempfile.gettempdir())

SECRET_KEY = "only for tests"
USE_TZ = True
DEBUG = False
ROOT_URLCONF = "tests.urls"
ALLOWED_HOSTS = ["*"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "ossy_event_store",
    "tests.library",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# The default takes half a second for each user on purpose.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Before Django 6.1 nothing reads it; from then on a mail needs it.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}

if STORE == "url":
    INSTALLED_APPS.append("ossy_event_store.relational")
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": ":memory:",
            # A database in memory is never closed, even where a thread ends.
            "TEST": {"NAME": TEMPORARY / f"test_{os.getpid()}.sqlite3"},
        }
    }
    OSSY_EVENT_STORE = {
        "URL": SERVER,
        "NAME": os.environ.get("TEST_STORE_NAME", "store"),
        "REBUILD_ON_STARTUP": os.environ.get("TEST_REBUILD", "background"),
        "TIMEOUT": float(os.environ.get("TEST_TIMEOUT", "10")),
    }
elif STORE == "mongodb":
    DATABASES = {
        "default": {
            "ENGINE": "django_mongodb_backend",
            "HOST": SERVER,
            "NAME": "store",
        }
    }
    OSSY_EVENT_STORE = {"DATABASE": "default"}
    DEFAULT_AUTO_FIELD = "django_mongodb_backend.fields.ObjectIdAutoField"
    INSTALLED_APPS[:3] = [
        "tests.mongo_apps.MongoAdminConfig",
        "tests.mongo_apps.MongoAuthConfig",
        "tests.mongo_apps.MongoContentTypesConfig",
    ]
    # Their migrations are written for integer keys; the tables come from the models.
    MIGRATION_MODULES = dict.fromkeys(("admin", "auth", "contenttypes", "sessions"))
else:
    DATABASES = {
        "default": {
            "ENGINE": "djongo",
            "NAME": "store",
            "CLIENT": {"host": SERVER},
        }
    }
    OSSY_EVENT_STORE = {"DATABASE": "default"}
