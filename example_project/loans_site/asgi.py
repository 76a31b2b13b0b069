"""For a server that speaks ASGI, which pages that update themselves need."""

import os

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loans_site.settings")

application = get_asgi_application()
if settings.DEBUG:
    # As runserver does; elsewhere a web server serves these files.
    application = ASGIStaticFilesHandler(application)
