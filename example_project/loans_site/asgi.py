"""The ASGI application; pages that update themselves need it."""

import os

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loans_site.settings")

application = get_asgi_application()
if settings.DEBUG:
    # Serve static files as runserver does. In production, a web server does this.
    application = ASGIStaticFilesHandler(application)
