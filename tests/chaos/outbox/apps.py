from django.apps import AppConfig
from django.conf import settings


class OutboxChaosConfig(AppConfig):
    name = "tests.chaos.outbox"

    def ready(self):
        from . import points, variants

        variants.install(settings.HERE["variant"])
        points.install(settings.HERE)
