"""
Settings of the tests in a browser: those of the other tests, on a whole site.

They are run apart, with ``--ds=tests.browser.settings``, so that the other tests
neither serve files nor need a browser.
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

# A file: every request has a thread of its own, and threads that share the one
# connection of a database in memory fall into each other's transactions.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"timeout": 60},
        "TEST": {"NAME": Path(tempfile.gettempdir(), f"browser_{os.getpid()}.sqlite3")},
    }
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
