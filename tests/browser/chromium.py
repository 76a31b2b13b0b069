"""Where Chromium is, how long it is waited for, and what its pages can be like."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "There is no Chromium: install it, or set CHROMIUM to its path."
# Milliseconds. Only what never comes takes so long, and a loaded machine may.
PATIENCE = 60_000

# Options of a context, beside a desktop's window.
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
VARIANTS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}},
    "mirrored": {"locale": "ar"},
    "still": {"reduced_motion": "reduce"},
}


def executable():
    """Return the path of the browser; without one, skip, and on CI fail."""
    for name in (os.environ.get("CHROMIUM"), *NAMES):
        if name and (path := shutil.which(name)):
            return path
    # A test that CI always skips would never fail.
    return (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
