"""
Run a check or the example: ``python3 dev.py NAME [ARGUMENTS]``.

Needs Python 3.11 or later and nothing else: the first call makes ``.venv`` with tox
and uv in it, and they make an environment for each name of ``tox.ini``.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
NAMES = ("tests", "faults", "lint", "types", "docs", "package", "browser")
NAMES += ("mongodb", "djongo", "lowest", "coverage", "ci", "all")
NAMES += ("example", "chaos", "model", "leaks", "pictures")

# What ``tests`` takes, the first that is there: CI does not run that pair once more.
NEWEST = {"python3.13": "py313-dj61", "python3.12": "py312-dj61"}

PAIRS = ("py311-dj52", "py312-dj52", "py312-dj60", "py312-dj61")
PAIRS += ("py313-dj52", "py313-dj60", "py313-dj61")

# The rest of the store neither knows nor asks where its client comes from.
THROUGH_DJANGO = (
    *("tests/admin", "tests/checks", "tests/management", "tests/mongodb"),
    *("tests/projections", "tests/rebuild", "tests/streams", "tests/subscriptions"),
    *(
        f"tests/testing/test_{name}.py"
        for name in ("appended_events", "fault", "running")
    ),
    *(f"tests/test_{name}.py" for name in ("aggregate", "databases", "event_store")),
    *(f"tests/test_{name}.py" for name in ("execute", "public_api", "registry")),
)


def main(arguments):
    if sys.version_info < (3, 11):
        return f"Python 3.11 or later is needed, this is {sys.version.split()[0]}."
    if not arguments or arguments[0] not in NAMES:
        return f"Usage: python3 dev.py NAME [ARGUMENTS]\nNAME: {', '.join(NAMES)}"
    name, *rest = arguments
    ensure_tox()
    if name in OWN:
        return OWN[name](rest)
    chosen = [] if name == "all" else ["-e", name]
    return tox("run", *chosen, *(["--", *rest] if rest else []))


def ensure_tox():
    ready = VENV / "tox-is-installed"
    if ready.exists():
        return
    print("Making .venv with tox ...", flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    python = BIN / "python"
    needed = ("tox>=4.20", "tox-uv>=1.25")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *needed], check=True)
    ready.touch()


def tox(*arguments):
    return subprocess.run([BIN / "tox", *arguments], cwd=HERE, check=False).returncode


def example(arguments):
    print("Making the example's environment ...", flush=True)
    if code := tox("run", "-q", "-e", "example", "--notest"):
        return code
    # In this very process, so that Ctrl-C goes to the server and to nobody else.
    folder = HERE / ".tox" / "example" / BIN.name
    python = str(folder / "python")
    manage = str(HERE / "example_project" / "manage.py")
    return os.execv(python, [python, manage, "demo", *arguments])


def chaos(arguments):
    if arguments:
        return tox("run", "-e", "chaos", "--", *arguments)
    return tox("run", "-e", "short-chaos")


def measure():
    """Let the tests that follow measure what they run of the package."""
    for file in HERE.glob(".coverage*"):
        file.unlink()
    # The floor is for all of them together, not for each.
    os.environ["PYTEST_ADDOPTS"] = "--cov --cov-report= --cov-fail-under=0"


def coverage(arguments):
    measure()
    if code := tox("run", "-e", "tests,faults,mongodb,djongo"):
        return code
    return tox("run", "-e", "coverage", *(["--", *arguments] if arguments else []))


def ci(_):
    """
    Run what matters, and print what each part took.

    All tests run on the newest Python and Django found here, and on the lowest that
    are supported. On the other pairs, those run that are marked with ``versions``;
    on an alias, those that reach the store through Django.
    """
    began, took = time.monotonic(), []
    # Two at a time: one computes while the other waits or is set up.
    together = (BIN / "tox", "run-parallel", "--parallel", "2", "--parallel-no-spinner")
    measure()
    codes = [
        timed(took, sys.executable, __file__, "tests"),
        timed(took, BIN / "tox", "run", "-e", "faults"),
        timed(took, *together, "-e", "mongodb,djongo", "--", *THROUGH_DJANGO),
        timed(took, BIN / "tox", "run", "-e", "coverage"),
    ]
    del os.environ["PYTEST_ADDOPTS"]
    codes.append(timed(took, BIN / "tox", "run", "-e", "short-chaos"))
    newest = [pair for python, pair in NEWEST.items() if is_there(python)]
    tested = newest[0] if newest else "py311-dj52"
    pairs = [f"{pair}-versions" for pair in PAIRS if pair != tested]
    # The longest first.
    rest = ("lowest", "browser", *pairs, "docs", "package", "types", "lint")
    codes.append(timed(took, *together, "-e", ",".join(rest)))
    total = time.monotonic() - began
    print("\nWhat each part took:", *took, f"  total: {total:.0f} seconds", sep="\n")
    return max(codes)


def is_there(python):
    """Say whether a Python is found; a shim of pyenv's may stand for none."""
    for folder in os.get_exec_path():
        if path := shutil.which(python, path=folder):
            asked = subprocess.run([path, "-V"], capture_output=True, check=False)
            if asked.returncode == 0:
                return True
    return False


def timed(took, *command):
    """Run a command, and add what tox says of each environment to ``took``."""
    with subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.match(r"  [\w-]+: (OK|FAIL|SKIP)", line):
                took.append(line.rstrip())
    return process.returncode


OWN = {"example": example, "chaos": chaos, "coverage": coverage, "ci": ci}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
