"""The test site as a server runs it that speaks ASGI."""

import logging
import os

from django.core.asgi import get_asgi_application

logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

application = get_asgi_application()
