"""
Models without tables: they carry the permissions for the admin's pages.

Events and snapshots are stored in MongoDB, so Django creates no tables and no
migrations for these models. The app needs this module also so that Django sends it
``post_migrate``, upon which it creates the indexes.
"""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Stream(models.Model):
    """The events of one aggregate: who did what, and when."""

    id = models.CharField(_("stream"), max_length=1024, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = _("stream")
        verbose_name_plural = _("streams")

    def __str__(self) -> str:
        return self.id


class Event(models.Model):
    """The content of an event: its payload, and the state that it led to."""

    id = models.CharField(_("event"), max_length=1024, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = _("event")
        verbose_name_plural = _("events")

    def __str__(self) -> str:
        return self.id


class Snapshot(models.Model):
    """The stored state of a stream."""

    id = models.CharField(_("stream"), max_length=1024, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (("rebuild_snapshot", _("Can rebuild snapshot")),)
        verbose_name = _("snapshot")
        verbose_name_plural = _("snapshots")

    def __str__(self) -> str:
        return self.id


class Subscription(models.Model):
    """The status of a subscription or projection, and its parked streams."""

    id = models.CharField(_("subscription"), max_length=1024, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (("operate_subscription", _("Can operate subscription")),)
        verbose_name = _("subscription")
        verbose_name_plural = _("subscriptions")

    def __str__(self) -> str:
        return self.id
