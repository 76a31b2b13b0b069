"""A PostgreSQL cluster for the benchmark, if PostgreSQL is installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

DEBIAN = "usr/lib/postgresql/*/bin"


def programs():
    """Return the folder of ``initdb`` (not in the PATH on Debian), or None."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/").glob(DEBIAN))
    return folders[-1] if folders else None


@contextmanager
def cluster():
    """Run a cluster with default settings; yield its socket's folder, and its user."""
    binaries = programs()
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shutil.chown(folder, user)
        data = Path(folder) / "data"

        def run(program, *arguments):
            subprocess.run(
                [binaries / program, *arguments],
                user=user if os.getuid() == 0 else None,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                check=True,
            )

        run("initdb", "-D", data, "-A", "trust", "-U", "benchmark")
        socket = f"-c listen_addresses= -c unix_socket_directories={folder}"
        run("pg_ctl", "-D", data, "-w", "-o", socket, "-l", f"{folder}/log", "start")
        try:
            yield folder, "benchmark"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
