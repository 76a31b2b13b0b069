"""The keeper: when it ends the server, and what happens after each kind of death."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ossy_event_store.embedded import keeper as embedded_keeper
from ossy_event_store.embedded import server as embedded
from tests.support.embedded import (
    STAYS,
    is_gone,
    keepers,
    owner,
    read,
    servers,
    start,
    until,
    values,
    write,
)

pytestmark = pytest.mark.faults


def test_the_server_ends_when_its_only_owner_is_killed_and_keeps_the_data(folder):
    with owner(folder) as other:
        url = read(other)
        write(url, 1)
        other.kill()
        until(lambda: is_gone(folder))

    assert start(folder) == url
    assert values(url) == [1]


def test_the_server_stays_while_another_owner_lives(folder):
    with owner(folder) as other:
        url = read(other)
        start(folder)
        other.kill()
        other.wait()

        time.sleep(
            3 * embedded_keeper.POLL_SECONDS
        )  # that nothing happens has no condition
        write(url, 1)

    assert values(start(folder)) == [1]


def test_within_the_grace_time_the_next_owner_finds_it_running(folder):
    with owner(folder, grace=60, then="") as first:
        url = read(first)
        first.wait(10)
    running = servers(folder)

    assert start(folder) == url
    assert servers(folder) == running
    assert len(running) == 1


def test_an_owner_that_arrives_while_the_server_ends_gets_a_new_one(folder):
    def ends() -> bool:
        with (folder / "owners.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    start(folder)
    before = servers(folder)
    with (folder / "owners.lock").open() as second:  # until we have looked once
        fcntl.flock(second, fcntl.LOCK_SH)
        embedded.stop(str(folder))
        assert not ends()
    until(lambda: is_gone(folder) or ends())

    write(start(folder), 1)

    assert len(servers(folder)) == 1
    assert servers(folder) != before


def test_a_forked_child_of_an_owner_is_an_owner(folder):
    fork = "if os.fork(): os._exit(0)\nprint('child', flush=True)\n"
    with owner(folder, then=fork + STAYS) as parent:
        url = read(parent)
        assert read(parent) == "child"
        parent.wait(10)

        time.sleep(
            3 * embedded_keeper.POLL_SECONDS
        )  # that nothing happens has no condition
        write(url, 1)

        assert parent.stdin is not None
        parent.stdin.close()  # the child reads to the end of it
        until(lambda: is_gone(folder))


def test_a_program_that_an_owner_runs_is_no_owner(folder):
    program = (
        "\nsubprocess.Popen([sys.executable, '-c', 'input()'], stdout=-3)\nos._exit(0)"
    )
    with owner(folder, then=program) as other:
        assert read(other)
        until(lambda: is_gone(folder))


def test_a_throw_away_server_is_one_a_process_and_is_deleted_with_its_owner():
    then = """
print(embedded.start(''), flush=True)
print(embedded._folders[''], flush=True)
sys.stdin.read()
"""
    # Two other processes: this one may be running on a throw-away server itself.
    with owner("", then=then) as one, owner("", then=then) as other:
        first, again, folder = read(one), read(one), Path(read(one))
        assert first == again != read(other)
        assert folder.exists()
    until(lambda: is_gone(folder))
    assert not folder.exists()


# --- detached


def test_the_keeper_is_out_of_reach_of_ctrl_c_and_holds_no_pipe(folder):
    with owner(folder, grace=60, then="") as other:
        output, _ = other.communicate(timeout=10)  # to the end of the pipe

    (keeper,) = keepers(folder)
    assert output.startswith("mongodb://")
    assert os.getsid(keeper) != os.getsid(0)


def test_a_second_keeper_of_a_folder_ends_at_once(folder):
    start(folder)
    script = [sys.executable, embedded_keeper.__file__, folder, "remove", "0", "false"]

    assert subprocess.run(script).returncode == 3
    assert len(keepers(folder)) == 1


def test_a_terminated_keeper_stops_mongod(folder):
    start(folder)
    os.kill(keepers(folder)[0], signal.SIGTERM)

    until(lambda: is_gone(folder))
    assert (folder / "data" / "mongod.lock").read_text() == ""  # cleanly


def test_a_mongod_that_does_not_stop_is_killed():
    deaf = (
        "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()

        embedded_keeper.stop(process, 0.2)

        assert process.returncode == -signal.SIGKILL


# --- accidents


def test_after_kill_9_of_mongod_the_next_start_begins_again_with_the_data(folder):
    url = start(folder)
    write(url, 1)
    os.kill(servers(folder)[0], signal.SIGKILL)
    until(lambda: not embedded._keeper_lives(folder))

    assert start(folder) == url
    assert values(url) == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="no PR_SET_PDEATHSIG")
def test_kill_9_of_the_keeper_leaves_no_mongod(folder):
    start(folder)
    os.kill(keepers(folder)[0], signal.SIGKILL)

    until(lambda: is_gone(folder))


def test_after_kill_9_of_the_keeper_the_next_start_begins_again_with_the_data(folder):
    url = start(folder)
    write(url, 1)
    before = servers(folder)
    os.kill(keepers(folder)[0], signal.SIGKILL)
    # Its lock, not its command: a dying process loses that a moment earlier.
    until(lambda: not embedded._keeper_lives(folder))

    assert start(folder) == url
    assert values(url) == [1]
    assert len(servers(folder)) == 1
    assert servers(folder) != before


def test_start_ends_a_mongod_that_lost_its_keeper(folder):
    write(start(folder), 1)
    embedded.stop(str(folder))
    until(lambda: is_gone(folder))
    data = folder / "data"
    command = [embedded.find_mongod(None), "--dbpath", data, "--replSet", "ossy"]
    port = json.loads((folder / "server.json").read_text())["port"]
    with subprocess.Popen(
        [*command, "--nounixsocket", "--port", str(port)], stdout=subprocess.DEVNULL
    ) as orphan:
        until(lambda: (data / "mongod.lock").read_text() == f"{orphan.pid}\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            orphan.wait(0.5)

        # It is a child of ours, and a zombie until someone waits for it.
        threading.Thread(target=orphan.wait).start()
        url = start(folder)

        assert orphan.poll() == 0
    assert url.startswith(f"mongodb://127.0.0.1:{port}/")
    assert values(url) == [1]


def test_start_does_not_end_another_process_with_the_id_of_the_last_mongod(folder):
    start(folder)
    embedded.stop(str(folder))
    until(lambda: is_gone(folder))
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (folder / "data" / "mongod.lock").write_text(f"{stranger.pid}\n")

        start(folder)

        assert stranger.poll() is None
        stranger.kill()
