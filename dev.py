"""
Run a check or the example: ``python3 dev.py NAME [ARGUMENTS]``.

Needs Python 3.11 or later and nothing else: the first call makes ``.venv`` with tox
in it, and tox makes an environment for each name of ``tox.ini``.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
NAMES = ("example", "tests", "lint", "types", "docs", "package", "mongodb", "djongo")
NAMES += ("lowest", "browser", "chaos", "model", "pictures", "all")


def main(arguments):
    if sys.version_info < (3, 11):
        return f"Python 3.11 or later is needed, this is {sys.version.split()[0]}."
    if not arguments or arguments[0] not in NAMES:
        return f"Usage: python3 dev.py NAME [ARGUMENTS]\nNAME: {', '.join(NAMES)}"
    name, *rest = arguments
    ensure_tox()
    if name == "example":
        return example(rest)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
