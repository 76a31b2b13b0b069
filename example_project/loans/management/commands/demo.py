import errno
import re
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.core.management.commands.runserver import naiveip_re

APPLICATIONS = Path(settings.BASE_DIR) / "demo" / "applications.jsonl"
LOGIN = PASSWORD = "admin"


class Command(BaseCommand):
    help = (
        "Fill the example with invented applications and start it: migrate, create the "
        "superuser admin/admin, import demo/applications.jsonl, rebuild snapshots, "
        "update the projections, start run_subscriptions, and serve the site with "
        "uvicorn. You can run it repeatedly. For development only."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "addrport",
            nargs="?",
            default="127.0.0.1:8000",
            metavar="ADDRPORT",
            help="Port, or address:port (default: %(default)s).",
        )
        parser.add_argument(
            "--no-server",
            action="store_false",
            dest="server",
            help="Prepare everything, but do not start the server.",
        )

    def handle(self, *, addrport, server, verbosity, **options):
        if not settings.DEBUG:
            raise CommandError(
                "DEBUG is off: demo creates a superuser with a known password, "
                "so it runs in development only."
            )
        site = site_of(addrport)
        if server:
            check_server()
            check_port(*site)
        self.prepare(verbosity)
        self.say_where(*site)
        if server:
            self.stdout.flush()
            with subscriptions():
                serve(*site)

    def prepare(self, verbosity):
        quiet = max(0, verbosity - 1)
        call_command("migrate", interactive=False, verbosity=quiet)
        self.has_known_login = make_superuser()
        self.stdout.write("Importing the demo's applications, all of them invented:")
        call_command("import_events", str(APPLICATIONS), verbosity=verbosity)
        call_command(
            "rebuild_aggregates", stale=True, interactive=False, verbosity=verbosity
        )
        call_command("run_subscriptions", until_caught_up=True, verbosity=quiet)

    def say_where(self, host, port):
        address = f"http://{host}:{port}/"
        self.stdout.write("")
        self.stdout.write(self.style.SUCCESS(f"  Loan desk  {address}"))
        self.stdout.write(self.style.SUCCESS(f"  Admin      {address}admin/"))
        if self.has_known_login:
            self.stdout.write(f"  Login      {LOGIN}, password {PASSWORD}")
            self.stdout.write("             (everyone knows it: for this demo only)")
        else:
            self.stdout.write("  Login      the superuser that you created yourself")
        self.stdout.write("")


@contextmanager
def subscriptions():
    """Run ``run_subscriptions``, which assigns positions, next to the server."""
    process = subprocess.Popen([sys.executable, sys.argv[0], "run_subscriptions"])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def check_server():
    """Raise a ``CommandError`` if uvicorn is not installed."""
    if find_spec("uvicorn") is None:
        raise CommandError(
            "Pages that update themselves need an ASGI server; run pip install uvicorn."
        )


def serve(host, port):
    """Serve with ASGI until Ctrl-C, reloading on changes; runserver is WSGI only."""
    import uvicorn

    uvicorn.run(
        "loans_site.asgi:application",
        host=host.strip("[]"),
        port=port,
        lifespan="off",
        reload=True,
        reload_dirs=[str(settings.BASE_DIR)],
    )


def make_superuser():
    """Create a superuser if none exists; return whether the known login works."""
    users = get_user_model().objects
    superusers = users.filter(is_superuser=True)
    if not superusers.exists():
        users.create_superuser(LOGIN, password=PASSWORD)
    known = superusers.filter(username=LOGIN).first()
    return known is not None and known.check_password(PASSWORD)


def site_of(addrport):
    """Return the host, as in a URL, and the port of an argument like runserver's."""
    match = re.match(naiveip_re, addrport)
    if match is None:
        raise CommandError(f"{addrport!r} is neither a port nor an address:port.")
    host, _, _, _, port = match.groups()
    return host or "127.0.0.1", int(port)


def check_port(host, port):
    """Raise a ``CommandError`` if the server cannot listen on this address."""
    kind = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(kind) as probe:
            # Like runserver, ignore closed connections of the last run.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandError(
                f"Another program is listening on {host}:{port}. "
                f"Choose another port: manage.py demo {port + 1}"
            ) from None
        raise CommandError(
            f"Cannot listen on {host}:{port}: {error.strerror}."
        ) from None
    except OverflowError:
        raise CommandError(f"{port} is not a port.") from None
