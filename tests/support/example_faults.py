"""
Put faults into the example, one at a time, and run its tests: which find it?

``python -m tests.support.example_faults FOLDER``, with the folder of the example. Each
run is a fork of a process that has imported what they all need, so it takes no longer
than the tests themselves.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import django.test
import pytest

from ossy_event_store.testing import cases, given
from tests.support.plugin import LOAD_PLUGIN

# Imported once, for all forks.
IMPORTED = (django.test, cases, given)

# A file of the example, what stands there once, and the fault in its place.
FAULTS = (
    # The reducer.
    ("aggregate", '"status": "open",', '"status": "new",'),
    ("aggregate", "        **saved_state,\n", ""),
    ("aggregate", 'list(state["openWork"])', "[]"),
    ("aggregate", 'list(state["workers"])', "[]"),
    ("aggregate", ' | state["offers"]', ""),
    ("aggregate", 'if state["id"] is None:', "if True:"),
    ("aggregate", "who is not None and ", ""),
    ("aggregate", " and who not in workers", ""),
    ("aggregate", 'state["submitted"] = event["created"]', "pass"),
    ("aggregate", '["decided"] = event["created"]', '["decided"] = state["submitted"]'),
    ("aggregate", 'state["offers"][OFFERS[event["type"]]] += 1', "pass"),
    ("aggregate", 'OFFERS[event["type"]]] += 1', 'OFFERS[event["type"]]] = 1'),
    ("aggregate", 'get("lifecycle") == "COMPLETE"', 'get("lifecycle") == "START"'),
    ("aggregate", "    elif not is_open:\n", "    else:\n"),
    ("aggregate", "        if is_open:\n", "        if True:\n"),
    ("aggregate", "    | dict.fromkeys(DECISIONS, _decide)\n", ""),
    ("aggregate", ' | {"A_SUBMITTED": _submit}', ""),
    ("aggregate", '"A_DECLINED": "declined"', '"A_DECLINED": "cancelled"'),
    ("aggregate", 'payload.get("applicant")', 'payload.get("name")'),
    # The rule.
    ("rules", 'if status != "open":', 'if status == "approved":'),
    ("rules", "(events, saved_state)[", "(events, {})["),
    # The read models.
    ("projections", ".date().isoformat()", ".isoformat()"),
    ("projections", 'event["payload"].get("amountRequested") or 0', "1"),
    ("projections", '+= 1\n        state["amount"]', '= 1\n        state["amount"]'),
    ("projections", "is_work and is_finished", "is_work"),
    ("projections", "is_work and is_finished", "is_finished"),
    ("projections", "max(filter(None, (", "min(filter(None, ("),
    ("projections", ".get(kind, 0) + 1", ".get(kind, 1)"),
    # The pages.
    ("views", "application.validate(must_be_open).add", "application.add"),
    ("views", "    except ConcurrencyError:", "    except ZeroDivisionError:"),
    ("views", "    except IdempotencyConflict:", "    except ZeroDivisionError:"),
    ("forms", 'if data["key"] else', 'if not data["key"] else'),
    ("views", 'ids["$gt"] = after', 'ids["$gte"] = after'),
)


def found(example, name, right, wrong):
    """Whether the tests of the example fail with a fault in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "example")
        shutil.copytree(example, copy, ignore=shutil.ignore_patterns(".data", "*.pyc"))
        module = copy / "loans" / f"{name}.py"
        text = module.read_text("utf-8")
        if text.count(right) != 1:
            sys.exit(f"{name} has {right!r} {text.count(right)} times")
        module.write_text(text.replace(right, wrong), "utf-8")
        code = code_of_tests(copy)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            sys.exit((copy / "output").read_text())
        return code == pytest.ExitCode.TESTS_FAILED


def code_of_tests(folder):
    """Run the tests of a copy in a fork, and return its exit code."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        with open("output", "w") as output:  # noqa: PTH123 - of a process that ends
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        options = ("-q", "-x", "-c", os.devnull, "--rootdir", ".")
        plugins = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:cov")
        os._exit(pytest.main([*options, *plugins, *LOAD_PLUGIN, "loans/tests.py"]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder):
    """Print each fault that no test finds; return whether there is one."""
    if found(folder, "rules", "NotOpen(status)", "NotOpen(status)  # the same"):
        sys.exit("The tests fail without a fault.")
    missed = [fault for fault in FAULTS if not found(folder, *fault)]
    lines = [f"{name}: {right!r} -> {wrong!r}" for name, right, wrong in missed]
    lines.append(f"{len(FAULTS) - len(missed)} of {len(FAULTS)} found")
    sys.stdout.write("\n".join(lines) + "\n")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
