"""
Models without tables: they carry the permissions for the admin's pages.

Events and snapshots are stored in MongoDB, so Django creates no tables and no
migrations for these models. The app needs this module also so that Django sends it
``post_migrate``, upon which it creates the indexes.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _


class _NoRows(models.Manager):  # type: ignore[type-arg]
    """
    Has no rows, so that ``dumpdata`` and whatever else reads all models finds none.

    Without it, they would fail for the whole site, as there is no table.
    """

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()


class _Tableless(models.Model):
    """What the models have in common."""

    objects = _NoRows()

    class Meta:
        abstract = True
        managed = False
        default_permissions = ("view",)
        base_manager_name = "objects"


class Stream(_Tableless):
    """The events of one aggregate: who did what, and when."""

    id = models.CharField(_("stream"), max_length=1024, primary_key=True)

    class Meta(_Tableless.Meta):
        verbose_name = _("stream")
        verbose_name_plural = _("streams")

    def __str__(self) -> str:
        return self.id


class Event(_Tableless):
    """The content of an event: its payload, and the state that it led to."""

    id = models.CharField(_("event"), max_length=1024, primary_key=True)

    class Meta(_Tableless.Meta):
        verbose_name = _("event")
        verbose_name_plural = _("events")

    def __str__(self) -> str:
        return self.id


class Snapshot(_Tableless):
    """The stored state of a stream."""

    id = models.CharField(_("stream"), max_length=1024, primary_key=True)

    class Meta(_Tableless.Meta):
        permissions = (("rebuild_snapshot", _("Can rebuild snapshot")),)
        verbose_name = _("snapshot")
        verbose_name_plural = _("snapshots")

    def __str__(self) -> str:
        return self.id


class Subscription(_Tableless):
    """The status of a subscription or projection, and its parked streams."""

    id = models.CharField(_("subscription"), max_length=1024, primary_key=True)

    class Meta(_Tableless.Meta):
        permissions = (("operate_subscription", _("Can operate subscription")),)
        verbose_name = _("subscription")
        verbose_name_plural = _("subscriptions")

    def __str__(self) -> str:
        return self.id
