"""
Run a check or the example: ``python3 dev.py NAME [ARGUMENTS]``.

Needs Python 3.11 or later and nothing else: the first call makes ``.venv`` with tox
in it, and tox makes an environment for each name of ``tox.ini``.
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
NAMES += ("example", "chaos", "model", "pictures")


# What ``tests`` runs on, and CI therefore not once more.
NEWEST_DJANGO = {(3, 11): "52", (3, 12): "61", (3, 13): "61"}

# The rest of the store neither knows nor asks where its client comes from.
THROUGH_DJANGO = (
    *("tests/admin", "tests/checks", "tests/management", "tests/mongodb"),
    *("tests/projections", "tests/rebuild", "tests/streams", "tests/subscriptions"),
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
    subprocess.run([python, "-m", "pip", "install", "--quiet", "tox>=4.20"], check=True)
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
    Run what matters besides ``tests``, and print what each part took.

    All tests run on the newest pair of Python and Django found here. On the other
    pairs, those run that are marked with ``versions``; on an alias, those that reach
    the store through Django.
    """
    newest = "py313-dj61" if is_there("python3.13") else "tests"
    began, took = time.monotonic(), []
    code = timed(took, "-e", "lint,types")
    if code == 0:
        measure()
        codes = [
            timed(took, "-e", f"{newest},faults"),
            timed(took, "-e", "mongodb,djongo", "--", *THROUGH_DJANGO),
            timed(took, "-e", "coverage"),
        ]
        del os.environ["PYTEST_ADDOPTS"]
        codes.append(timed(took, "-e", "lowest,short-chaos,docs,package,browser"))
        django = NEWEST_DJANGO.get(sys.version_info[:2], "61")
        this = f"py3{sys.version_info.minor}-dj{django}"
        os.environ["TOX_SKIP_ENV"] = f"{newest}|{this}"
        codes.append(timed(took, "-m", "pairs", "--", "-m", "versions and not faults"))
        code = max(codes)
    total = time.monotonic() - began
    print("\nWhat each part took:", *took, f"  total: {total:.0f} seconds", sep="\n")
    return code


def is_there(python):
    """Say whether a Python is found; a shim of pyenv's may stand for none."""
    for folder in os.get_exec_path():
        if path := shutil.which(python, path=folder):
            asked = subprocess.run([path, "-V"], capture_output=True, check=False)
            if asked.returncode == 0:
                return True
    return False


def timed(took, *arguments):
    """Run tox, and add what it says of each environment at its end to ``took``."""
    with subprocess.Popen(
        [BIN / "tox", "run", *arguments], cwd=HERE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.match(r"  [\w-]+: (OK|FAIL|SKIP)", line):
                took.append(line.rstrip())
    return process.returncode


OWN = {"example": example, "chaos": chaos, "coverage": coverage, "ci": ci}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
