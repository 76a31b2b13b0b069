"""The test site as a server runs it, with the store's log on stderr."""

import logging
import os

from django.core.wsgi import get_wsgi_application

logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

application = get_wsgi_application()
