"""
Install the built wheel into an empty environment and use it, far from the tree.

``python tests/use_the_wheel.py FOLDER``, where ``FOLDER/dist`` holds the wheel.
"""

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ossy_event_store"

MODELS = """
from ossy_event_store import register_aggregate

@register_aggregate
class Order:
    aggregate_type = "Order"

    @staticmethod
    def view(events, saved_state):
        return {**saved_state, "last": events[-1]["type"]}
"""

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "ossy_event_store",
    "ossy_event_store.relational",
    "shop",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db"}}
OSSY_EVENT_STORE = {"URL": "embedded://mongo"}
"""

USE = """
import django
django.setup()
from django.core.management import call_command
from ossy_event_store import Aggregate
from shop.aggregate import Order
call_command("migrate", verbosity=0)
order = Aggregate.of(Order, {"type": "OrderPlaced"}).add({"type": "OrderShipped"})
call_command("rebuild_aggregates", interactive=False)
assert Aggregate.find(order.id)["state"] == {"last": "OrderShipped"}
from ossy_event_store.relational import checkpoints
checkpoints.adopt("orders", 0, {}, "me", "default")
assert checkpoints.hold("orders", "me", 0, 2, "default")
call_command("makemigrations", "--check", verbosity=0)
call_command("check", "--fail-level", "WARNING", "--database", "default")
import ossy_event_store
assert "site-packages" in ossy_event_store.__file__, ossy_event_store.__file__
print("used the wheel:", ossy_event_store.__version__)
"""


def main(folder):
    (wheel,) = Path(folder, "dist").glob("*.whl")
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as place:
        use(wheel, Path(place))


def check_contents(wheel):
    """Compare the wheel with the tree, file by file."""
    tree = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert packed == tree, f"missing {tree - packed}, too many {packed - tree}"


def use(wheel, place):
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"{wheel}[embedded]"]
    subprocess.run(install, check=True)
    (place / "shop").mkdir()
    (place / "shop" / "__init__.py").touch()
    (place / "shop" / "aggregate.py").write_text(MODELS)
    (place / "settings.py").write_text(SETTINGS)
    subprocess.run(
        [python, "-W", "error", "-c", USE],
        check=True,
        cwd=place,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "settings"},
    )


if __name__ == "__main__":
    main(sys.argv[1])
