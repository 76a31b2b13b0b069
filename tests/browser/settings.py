"""
Settings of the browser tests: those of the other tests, plus a complete site.

The browser tests run separately, with ``--ds=tests.browser.settings``, so that the
other tests need neither static files nor a browser.
"""

import os
import tempfile
from pathlib import Path

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, MIDDLEWARE

ROOT_URLCONF = "tests.browser.urls"
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles"]
STATIC_URL = "static/"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "tests.browser.policy.only_own_sources",
    *MIDDLEWARE[:1],
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    *MIDDLEWARE[1:],
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# A file, because each request has its own thread, and threads that share the one
# connection of an in-memory database end up in each other's transactions.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"timeout": 60},
        "TEST": {"NAME": Path(tempfile.gettempdir(), f"browser_{os.getpid()}.sqlite3")},
    }
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
