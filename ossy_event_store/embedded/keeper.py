"""
The keeper: it runs one mongod for as long as a process needs it, then stops it.

``server.py`` runs this file as a script, not as part of the package: without Django and
PyMongo it is a process of about 12 MB. ::

    python keeper.py FOLDER GRACE keep|remove MONGOD [OPTION ...]

It depends on two locks (``flock``) in FOLDER, which the kernel frees however the
process that holds them dies:

- The keeper holds ``keeper.lock`` as long as it lives, and no other process does.
- All processes that need the server, the owners, share ``owners.lock``. If the keeper
  can lock it exclusively, no owner is left. It then holds the lock until it ends, so
  that an owner that arrives meanwhile waits, and then finds the folder free.

GRACE is how long the server runs without an owner, in seconds; ``remove`` deletes
FOLDER at the end. Errors are printed, and the caller redirects them to a file.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

POLL_SECONDS = 0.2  # between two looks at mongod and the owners
STOP_SECONDS = 10.0  # for mongod to stop cleanly; it takes about one
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def lock(path: str) -> int | None:
    """Return a descriptor that holds the lock exclusively, None if others hold it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if lock_exclusively(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def lock_exclusively(descriptor: int) -> bool:
    """Lock exclusively, if that is possible at once; return whether it was."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child runs first, so that it ends if this process is killed."""
    if sys.platform != "linux":
        return None  # here the next start finds the orphan and ends it
    import ctypes  # before the fork: a child should load nothing

    prctl = ctypes.CDLL(None).prctl
    keeper = os.getpid()

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != keeper:  # the parent died before this
            os._exit(1)

    return arm


def watch(mongod: subprocess.Popen[bytes], owners: int, grace: float) -> None:
    """Return when mongod has ended, or has had no owner for ``grace`` seconds."""
    alone_since: float | None = None
    while mongod.poll() is None:
        if not lock_exclusively(owners):
            alone_since = None
        else:
            now = time.monotonic()
            alone_since = now if alone_since is None else alone_since
            if now - alone_since >= grace:
                return  # with the lock: an owner that arrives now waits for our end
            fcntl.flock(owners, fcntl.LOCK_UN)
        time.sleep(POLL_SECONDS)


def stop(mongod: subprocess.Popen[bytes]) -> None:
    """Stop mongod cleanly, or by force after ``STOP_SECONDS``."""
    mongod.terminate()
    try:
        mongod.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        mongod.kill()
        mongod.wait()


def is_running(pid: int, data: str) -> bool:
    """Return whether ``pid`` is a mongod on the files in ``data``."""
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123
                command = file.read().replace("\0", " ")
        except OSError:
            return False
    else:
        ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        command = subprocess.run(ps, capture_output=True, text=True).stdout  # noqa: S603
    return "mongod" in command and f"--dbpath {data} " in command


def end_orphan(data: str) -> None:
    """End the mongod that a killed keeper left; for the caller of this script."""
    try:
        with open(f"{data}/mongod.lock") as file:  # noqa: PTH123
            pid = int(file.read())
    except (FileNotFoundError, ValueError):  # ValueError: empty, as it ended cleanly
        return
    if not is_running(pid, data):
        return
    with contextlib.suppress(ProcessLookupError):
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(pid, number)
            deadline = time.monotonic() + STOP_SECONDS
            while is_running(pid, data) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 10)
        # Its threads hold the port and the files a moment longer than it has a command
        # line. Wait no more than a second, as the zombie may never be reaped.
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(POLL_SECONDS / 10)


def print_errors(log: str, start: int) -> None:
    """Print the first errors that mongod logged since byte ``start``."""
    with contextlib.suppress(FileNotFoundError), open(log, "rb") as file:  # noqa: PTH123
        file.seek(start)
        lines = [line for line in file if b'"s":"E"' in line or b'"s":"F"' in line]
        for line in lines[:2]:
            text = line[line.find(b'"msg":') :][:400].decode(errors="replace")
            sys.stderr.write(text.strip() + "\n")


def keep(folder: str, grace: float, remove: bool, command: Sequence[str]) -> None:
    """Run ``command``, a mongod, until no process needs it."""
    # A keeper that is asked to end, as at a shutdown, stops mongod first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    owners = os.open(f"{folder}/owners.lock", os.O_RDWR | os.O_CREAT, 0o600)
    log = f"{folder}/mongod.log"
    logged = os.stat(log).st_size if os.path.exists(log) else 0  # noqa: PTH110, PTH116
    mongod = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # safe: this process has one thread
    )
    with contextlib.suppress(KeyboardInterrupt):
        watch(mongod, owners, grace)
    if mongod.poll() is not None:  # the folder stays, for its logs
        print_errors(log, logged)
        sys.stderr.write(f"mongod ended with code {mongod.returncode}\n")
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stop(mongod)
    if remove:
        import shutil  # here, as it takes a megabyte

        shutil.rmtree(folder, ignore_errors=True)


def main(folder: str, grace: str, end: str, *command: str) -> int:
    """Become the keeper of ``folder`` in a new process; return 3 if it has a keeper."""
    keeper = lock(f"{folder}/keeper.lock")
    if keeper is None:
        return 3
    # The caller waits for the process that it started, which ends here: by now the lock
    # is held, and no zombie is left. The child holds the lock too.
    if os.fork() == 0:
        keep(folder, float(grace), end == "remove", command)
        fcntl.flock(keeper, fcntl.LOCK_UN)  # before owners.lock, which our end frees
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
