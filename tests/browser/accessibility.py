"""The accessibility violations that axe-core finds on a page."""

from dataclasses import dataclass

from axe_playwright_python.sync_playwright import Axe

# To preload, axe copies style sheets into the page, which the policy forbids. Only the
# rule about screen orientation needs them.
OPTIONS = {"resultTypes": ["violations"], "preload": False}


@dataclass(frozen=True)
class Violation:
    rule: str
    #: minor, moderate, serious or critical
    impact: str
    help: str
    #: the HTML of each element, with the failure summary of axe
    nodes: tuple[str, ...]

    def __str__(self):
        lines = [f"{self.rule} ({self.impact}): {self.help}", *self.nodes]
        return "\n  ".join(lines)


def axe(page, include="html", exclude=()):
    """
    Return the violations inside ``include``, except those inside ``exclude``.

    Both are CSS selectors. All rules apply that axe enables by default.
    """
    page.locator(include).first.wait_for(state="attached")
    context = {"include": [[include]], "exclude": [[css] for css in exclude]}
    found = Axe().run(page, context, OPTIONS).response["violations"]
    return [
        Violation(
            rule=violation["id"],
            impact=violation["impact"],
            help=violation["help"],
            nodes=tuple(described(node) for node in violation["nodes"]),
        )
        for violation in found
    ]


def described(node):
    summary = " ".join(node.get("failureSummary", "").split())
    return f"{node['html']}  [{summary}]"
