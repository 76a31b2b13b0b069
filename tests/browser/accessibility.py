"""What axe-core finds wrong with a page for somebody who can't see or point."""

from dataclasses import dataclass

from axe_playwright_python.sync_playwright import Axe

# To preload, axe copies style sheets into the page, which the policy forbids; only
# its rule for turned screens needs it.
OPTIONS = {"resultTypes": ["violations"], "preload": False}


@dataclass(frozen=True)
class Violation:
    rule: str
    #: minor, moderate, serious or critical
    impact: str
    help: str
    #: the HTML of each element, with what axe says of it
    nodes: tuple[str, ...]

    def __str__(self):
        lines = [f"{self.rule} ({self.impact}): {self.help}", *self.nodes]
        return "\n  ".join(lines)


def axe(page, include="html", exclude=()):
    """
    Return the violations inside of ``include``, but for what is in ``exclude``.

    All are CSS selectors. The rules are every one that axe has on by default.
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
    why = " ".join(node.get("failureSummary", "").split())
    return f"{node['html']}  [{why}]"
