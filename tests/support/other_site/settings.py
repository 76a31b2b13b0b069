"""The settings of a site that differs in everything."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, MIDDLEWARE, TEMPORARY

INSTALLED_APPS = [
    *INSTALLED_APPS,
    "django.contrib.staticfiles",
    "tests.support.other_site.people",
]
MIDDLEWARE = [
    *("tests.browser.policy.only_own_sources", *MIDDLEWARE),
    "django.middleware.locale.LocaleMiddleware",
]
AUTH_USER_MODEL = "people.Person"
ROOT_URLCONF = "tests.support.other_site.urls"
FORCE_SCRIPT_NAME = "/shop"
STATIC_URL = "static/"
STATIC_ROOT = TEMPORARY / "set by the test"
STORAGES = {
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    }
}
USE_TZ = False
TIME_ZONE = "America/New_York"
LANGUAGE_CODE = "ar"
USE_THOUSAND_SEPARATOR = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": ":memory:",
        "ATOMIC_REQUESTS": True,
    }
}
