"""
One mask for secrets in whatever is stored, logged or displayed.

An error of a handler may quote a URL with its password, and its traceback does so too.
"""

from __future__ import annotations

import logging
import re

_SECRETS = (
    # The credentials of a URL; a password that is not percent-encoded may hold a slash.
    (re.compile(r"//[^\s\"'<>]*@"), "//***@"),
    # An option of a URL: tlsCertificateKeyFilePassword=…, AWS_SESSION_TOKEN:….
    (re.compile(r"((?:password|session_token)[=:])[^\s&,\"'<>]+", re.I), r"\1***"),
)


def mask(text: str) -> str:
    """Return ``text`` with ``***`` in place of credentials."""
    for secret, replacement in _SECRETS:
        text = secret.sub(replacement, text)
    return text


class MaskingFilter(logging.Filter):
    """Masks the message and the traceback of each record of a logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record, and let it pass."""
        try:
            text = record.getMessage()
        except Exception:
            return True  # logging itself reports it
        if (masked := mask(text)) != text:
            record.msg, record.args = masked, None
        if record.exc_info and not record.exc_text:
            # A formatter that finds a text does not format the traceback again.
            text = logging.Formatter().formatException(record.exc_info)
            if (masked := mask(text)) != text:
                record.exc_text = masked
        return True
