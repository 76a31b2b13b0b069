"""
Keep one mongod for as long as anybody needs it, then stop it.

Run by ``embedded.py`` as a script, not as part of the package: without Django and
PyMongo it stays a process of some 12 MB. ::

    python mongod_keeper.py FOLDER GRACE keep|remove MONGOD [OPTION ...]

Two locks (``flock``) in FOLDER say everything, because the kernel frees them
however their holder dies:

- ``keeper.lock`` is held by the keeper all its life, and by nobody else.
- ``owners.lock`` is shared by all who need the server. The keeper that can have it
  alone has no owners left. It then keeps it until its end, so that an owner who
  arrives meanwhile waits, and finds the keeper gone and the folder free.

GRACE is how long, in seconds, the server stays without an owner; ``remove`` deletes
FOLDER at the end. What goes wrong is printed, and the caller sends that to a file.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

POLL = 0.2  # seconds between two looks at mongod and the owners
STOP_PATIENCE = 10.0  # seconds for mongod to stop cleanly; it takes about one
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def lock(path: str) -> int | None:
    """Return a descriptor that holds the lock alone, None when others hold it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if has_alone(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def has_alone(descriptor: int) -> bool:
    """Take the lock exclusively if that is possible at once."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child runs so that a keeper killed with -9 leaves no mongod."""
    if sys.platform != "linux":
        return None  # there, the next start finds the orphan and ends it
    import ctypes  # before the fork: after it nothing should be loaded

    prctl = ctypes.CDLL(None).prctl
    keeper = os.getpid()

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != keeper:  # it died before the signal was armed
            os._exit(1)

    return arm


def watch(mongod: subprocess.Popen[bytes], owners: int, grace: float) -> None:
    """Return when mongod has ended, or when no owner was there for ``grace`` s."""
    alone_since: float | None = None
    while mongod.poll() is None:
        if not has_alone(owners):
            alone_since = None
        else:
            now = time.monotonic()
            alone_since = now if alone_since is None else alone_since
            if now - alone_since >= grace:
                return  # with the lock: who arrives now waits for our end
            fcntl.flock(owners, fcntl.LOCK_UN)
        time.sleep(POLL)


def stop(mongod: subprocess.Popen[bytes]) -> None:
    """Stop mongod cleanly, or after ``STOP_PATIENCE`` seconds by force."""
    mongod.terminate()
    try:
        mongod.wait(STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        mongod.kill()
        mongod.wait()


def is_running(pid: int, data: str) -> bool:
    """Say whether ``pid`` is a mongod on the files in ``data``."""
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
    """End the mongod that a killed keeper left. For the caller of this script."""
    try:
        with open(f"{data}/mongod.lock") as file:  # noqa: PTH123
            pid = int(file.read())
    except (FileNotFoundError, ValueError):  # ValueError: empty, it ended cleanly
        return
    if not is_running(pid, data):
        return
    with contextlib.suppress(ProcessLookupError):
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(pid, number)
            deadline = time.monotonic() + STOP_PATIENCE
            while is_running(pid, data) and time.monotonic() < deadline:
                time.sleep(POLL / 10)
        # Its threads have the port and the files a moment longer than it has a
        # command. No more than a second, as nobody may wait for the zombie.
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(POLL / 10)


def print_errors(log: str, start: int) -> None:
    """Print the first errors that mongod logged since byte ``start``."""
    with contextlib.suppress(FileNotFoundError), open(log, "rb") as file:  # noqa: PTH123
        file.seek(start)
        lines = [line for line in file if b'"s":"E"' in line or b'"s":"F"' in line]
        for line in lines[:2]:
            text = line[line.find(b'"msg":') :][:400].decode(errors="replace")
            sys.stderr.write(text.strip() + "\n")


def keep(folder: str, grace: float, remove: bool, command: Sequence[str]) -> None:
    """Run ``command``, a mongod, until nobody needs it."""
    # A keeper told to end (shutdown of the machine) stops mongod first.
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
    if mongod.poll() is not None:  # the folder stays: it says why
        print_errors(log, logged)
        sys.stderr.write(f"mongod ended with code {mongod.returncode}\n")
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stop(mongod)
    if remove:
        import shutil  # here, for the megabyte it takes

        shutil.rmtree(folder, ignore_errors=True)


def main(folder: str, grace: str, end: str, *command: str) -> int:
    """Become the keeper of ``folder`` in a process of its own; 3 if it has one."""
    keeper = lock(f"{folder}/keeper.lock")
    if keeper is None:
        return 3
    # The caller waits for the process it started, and that ends here: the lock is
    # held by then, and no zombie is left to anybody. The child has the lock too.
    if os.fork() == 0:
        keep(folder, float(grace), end == "remove", command)
        fcntl.flock(keeper, fcntl.LOCK_UN)  # before owners.lock, freed by our end
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
