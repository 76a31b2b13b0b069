"""Where Chromium is, how long tests wait for it, and the variants of a page."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "Chromium is missing: install it, or set CHROMIUM to its path."
# Milliseconds: long enough for a loaded machine. Only a failing test waits so long.
TIMEOUT_MS = 60_000

# Options of a browser context.
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
VARIANTS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}},
    "mirrored": {"locale": "ar"},
}


def executable():
    """Return the path of the browser; without one, skip the test, or fail it on CI."""
    for name in (os.environ.get("CHROMIUM"), *NAMES):
        if name and (path := shutil.which(name)):
            return path
    # A test that CI always skips would never fail.
    return (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
