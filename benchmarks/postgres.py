"""A PostgreSQL cluster of the benchmark's own, if its programs are there."""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

DEBIAN = "usr/lib/postgresql/*/bin"


def programs():
    """Return the folder of ``initdb``, which Debian keeps out of the PATH, or None."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/").glob(DEBIAN))
    return folders[-1] if folders else None


@contextmanager
def cluster():
    """Run a cluster as it ships, reached by a socket; give its folder and user."""
    binaries = programs()
    # It refuses to run as root.
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
