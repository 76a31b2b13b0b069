"""
Build the documentation, without network::

    sphinx-build -n -W -b html docs docs/_build/html
"""

import sys
from pathlib import Path

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import django  # noqa: E402
from django.conf import settings  # noqa: E402

if not settings.configured:
    settings.configure(
        INSTALLED_APPS=["ossy_event_store"],
        OSSY_EVENT_STORE={"URL": "mongodb://localhost"},  # nothing connects to it
        USE_TZ=True,
    )
    django.setup()

import from_code  # noqa: E402

import ossy_event_store  # noqa: E402

project = "ossy_event_store"
author = "The Ossy developers"
copyright = "2026, the Ossy developers"
version = release = ossy_event_store.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_ext", "figures"]  # these are included
html_theme = "furo"
html_title = f"ossy_event_store {release}"
smartquotes = False

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# Names in signatures from Python, Django and PyMongo: the build has no network, so it
# cannot link to their docs.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(ImproperlyConfigured"
        r"|ossy_event_store\.(aggregate\.registry\.R|subscriptions\.declaration\.H|projections\.projection\.P"
        r"|event_store\.transactions\.T|documents\.catalogue\.declaration\.[CF]"
        r"|testing\.factories\.T)|T|SearchStrategy"
        r"|(collections|contextlib|typing|datetime|django|pymongo|bson)\..*)",
    ),
]


class FromCode(SphinxDirective):
    """The lines that ``from_code`` generates for this directive."""

    def run(self):
        lines = from_code.GENERATED[self.name]()
        section = self.state.document
        node = type(section)(section.settings, section.reporter)
        nested_parse_with_titles(self.state, StringList(lines, self.name), node)
        for path in [__file__, *from_code.PACKAGE.rglob("*.py")]:
            self.env.note_dependency(str(path))
        return node.children


def setup(app):
    for name in from_code.GENERATED:
        app.add_directive(name, FromCode)
    return {"parallel_read_safe": True}
