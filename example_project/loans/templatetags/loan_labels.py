"""The labels of ``labels.py`` as template filters, and an amount in euros."""

from django import template

from .. import labels

register = template.Library()

register.filter("describe", labels.describe)
register.filter("kind", labels.kind)
register.filter("work_item", labels.work_item)


@register.filter
def euro(amount):
    """Format an amount: ``12000`` as ``€12,000``, None as a dash."""
    return "-" if amount is None else f"€{amount:,}"
