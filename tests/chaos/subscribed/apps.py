from django.apps import AppConfig


class SubscribedConfig(AppConfig):
    name = "tests.chaos.subscribed"

    def ready(self):
        from . import watch

        watch.begin()
