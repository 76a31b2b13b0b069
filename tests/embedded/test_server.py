"""The server of our own: who keeps it, who ends it, and every way to die."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from pymongo import MongoClient

from ossy_event_store.embedded import keeper as embedded_keeper
from ossy_event_store.embedded import server as embedded
from ossy_event_store.exceptions import StoreUnavailable

pytestmark = pytest.mark.faults

OWNER = """
import os, subprocess, sys
from ossy_event_store.embedded import server as embedded
embedded.GRACE_SECONDS = float(sys.argv[2])
print(embedded.start(sys.argv[1]), flush=True)
"""
STAYS = "sys.stdin.read()"


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def processes(word: str, folder: Path) -> list[int]:
    """The ids of the processes with both in their command; a zombie has none."""
    commands: dict[int, str] = {}
    if Path("/proc/self").exists():
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                commands[int(file.parent.name)] = file.read_text().replace("\0", " ")
    else:
        ps = subprocess.run(
            ["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True
        )
        for line in ps.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            commands[int(pid)] = command
    return [
        pid
        for pid, command in commands.items()
        if f"{word} " in command and f"{folder}/data " in command
    ]


def keepers(folder: Path) -> list[int]:
    return processes("embedded/keeper.py", folder)


def servers(folder: Path) -> list[int]:
    return [pid for pid in processes("mongod", folder) if pid not in keepers(folder)]


def is_gone(folder: Path) -> bool:
    return not processes("", folder)


@contextlib.contextmanager
def owner(
    folder: Path | str, grace: float = 0, then: str = STAYS
) -> Iterator[subprocess.Popen[str]]:
    """Another process that starts the server, and then runs ``then``."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER + then, str(folder), str(grace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(embedded.__file__).parents[2])},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write(url: str, value: int) -> None:
    with MongoClient(url) as client:
        client.test.things.insert_one({"_id": value})


def values(url: str) -> list[int]:
    with MongoClient(url) as client:
        return [each["_id"] for each in client.test.things.find().sort("_id")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a server that ends with its last owner; at the end it is gone."""
    monkeypatch.setattr(embedded, "GRACE_SECONDS", 0)
    folder = tmp_path / "server"
    yield folder
    embedded.stop(str(folder))
    for pid in keepers(folder):
        os.kill(pid, signal.SIGTERM)
    until(lambda: is_gone(folder))


# Starting and joining


@pytest.mark.chaos  # alone, as it measures
def test_start_takes_at_most_three_seconds(folder):
    began = time.monotonic()

    embedded.start(str(folder))

    assert time.monotonic() - began < 3


def test_start_gives_the_url_of_a_primary(folder):
    url = embedded.start(str(folder))

    with MongoClient(url) as client:
        hello = client.admin.command("hello")
    assert hello["isWritablePrimary"]
    assert url == f"mongodb://{hello['me']}/?replicaSet=ossy"


def test_the_server_has_transactions(folder):
    with MongoClient(embedded.start(str(folder))) as client:
        client.test.create_collection("things")
        with client.start_session() as session, session.start_transaction():
            client.test.things.insert_one({}, session=session)
            session.abort_transaction()
        assert client.test.things.count_documents({}) == 0


def test_a_new_folder_takes_less_than_50_megabytes(folder):
    embedded.start(str(folder))

    taken = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    assert 2**20 < taken < 50 * 2**20


def test_a_record_larger_than_a_file_of_the_journal_outlives_kill_9(folder):
    big = [os.urandom(9_000_000) for _ in range(2)]
    with MongoClient(embedded.start(str(folder))) as client:
        for each in big:
            client.test.things.insert_one({"b": each})
        os.kill(client.admin.command("serverStatus")["pid"], signal.SIGKILL)
    until(lambda: not embedded._keeper_lives(folder))

    with MongoClient(embedded.start(str(folder))) as client:
        assert [thing["b"] for thing in client.test.things.find()] == big


def test_the_same_process_gets_the_same_url_at_once(folder):
    url = embedded.start(str(folder))
    began = time.monotonic()

    assert embedded.start(str(folder)) == url
    assert time.monotonic() - began < 0.1


def test_a_second_process_joins(folder):
    url = embedded.start(str(folder))

    with owner(folder) as other:
        assert read(other) == url

    assert len(servers(folder)) == 1


def test_processes_that_start_at_the_same_moment_share_one_server(folder):
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(owner(folder)) for _ in range(4)]

        urls = {read(each) for each in owners}

        assert len(urls) == 1
        assert len(keepers(folder)) == len(servers(folder)) == 1


def test_threads_that_start_at_the_same_moment_share_one_server(folder):
    urls: list[str] = []
    threads = [
        threading.Thread(target=lambda: urls.append(embedded.start(str(folder))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(urls) == 4
    assert len(set(urls)) == 1
    assert len(servers(folder)) == 1


def test_a_relative_folder_is_resolved_once(folder, monkeypatch):
    folder.parent.joinpath("elsewhere").mkdir()
    monkeypatch.chdir(folder.parent)
    try:
        url = embedded.start("server")
        monkeypatch.chdir("elsewhere")

        assert embedded.start("server") == url == embedded.start(str(folder))
    finally:
        embedded.stop("server")


# Ending


def test_the_server_ends_with_its_only_owner_killed_and_keeps_the_data(folder):
    with owner(folder) as other:
        url = read(other)
        write(url, 1)
        other.kill()
        until(lambda: is_gone(folder))

    assert embedded.start(str(folder)) == url
    assert values(url) == [1]


def test_the_server_stays_while_another_owner_lives(folder):
    with owner(folder) as other:
        url = read(other)
        embedded.start(str(folder))
        other.kill()
        other.wait()

        time.sleep(
            3 * embedded_keeper.POLL_SECONDS
        )  # that nothing happens has no condition
        write(url, 1)

    assert values(embedded.start(str(folder))) == [1]


def test_within_the_grace_time_the_next_owner_finds_it_running(folder):
    with owner(folder, grace=60, then="") as first:
        url = read(first)
        first.wait(10)
    running = servers(folder)

    assert embedded.start(str(folder)) == url
    assert servers(folder) == running
    assert len(running) == 1


def test_an_owner_who_arrives_while_the_server_ends_gets_a_fresh_one(folder):
    def ends() -> bool:
        with (folder / "owners.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    embedded.start(str(folder))
    before = servers(folder)
    with (folder / "owners.lock").open() as second:  # until we have looked once
        fcntl.flock(second, fcntl.LOCK_SH)
        embedded.stop(str(folder))
        assert not ends()
    until(lambda: is_gone(folder) or ends())

    write(embedded.start(str(folder)), 1)

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


# Detached


def test_the_keeper_is_out_of_reach_of_ctrl_c_and_holds_no_pipe(folder):
    with owner(folder, grace=60, then="") as other:
        output, _ = other.communicate(timeout=10)  # to the end of the pipe

    (keeper,) = keepers(folder)
    assert output.startswith("mongodb://")
    assert os.getsid(keeper) != os.getsid(0)


def test_a_second_keeper_of_a_folder_ends_at_once(folder):
    embedded.start(str(folder))
    script = [sys.executable, embedded_keeper.__file__, folder, "0", "remove", "false"]

    assert subprocess.run(script).returncode == 3
    assert len(keepers(folder)) == 1


def test_a_keeper_told_to_end_stops_mongod(folder):
    embedded.start(str(folder))
    os.kill(keepers(folder)[0], signal.SIGTERM)

    until(lambda: is_gone(folder))
    assert (folder / "data" / "mongod.lock").read_text() == ""  # cleanly


def test_a_mongod_that_does_not_stop_is_killed(monkeypatch):
    monkeypatch.setattr(embedded_keeper, "STOP_SECONDS", 0.2)
    deaf = (
        "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()

        embedded_keeper.stop(process)

        assert process.returncode == -signal.SIGKILL


# Accidents


def test_after_kill_9_of_mongod_the_next_start_begins_anew_with_the_data(folder):
    url = embedded.start(str(folder))
    write(url, 1)
    os.kill(servers(folder)[0], signal.SIGKILL)
    until(lambda: not embedded._keeper_lives(folder))

    assert embedded.start(str(folder)) == url
    assert values(url) == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="no PR_SET_PDEATHSIG")
def test_kill_9_of_the_keeper_leaves_no_mongod(folder):
    embedded.start(str(folder))
    os.kill(keepers(folder)[0], signal.SIGKILL)

    until(lambda: is_gone(folder))


def test_after_kill_9_of_the_keeper_the_next_start_begins_anew_with_the_data(folder):
    url = embedded.start(str(folder))
    write(url, 1)
    before = servers(folder)
    os.kill(keepers(folder)[0], signal.SIGKILL)
    # Its lock, not its command: a dying process loses that a moment earlier.
    until(lambda: not embedded._keeper_lives(folder))

    assert embedded.start(str(folder)) == url
    assert values(url) == [1]
    assert len(servers(folder)) == 1
    assert servers(folder) != before


def test_start_ends_a_mongod_that_lost_its_keeper(folder):
    write(embedded.start(str(folder)), 1)
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
        url = embedded.start(str(folder))

        assert orphan.poll() == 0
    assert url.startswith(f"mongodb://127.0.0.1:{port}/")
    assert values(url) == [1]


def test_start_leaves_a_stranger_alone_that_has_the_id_of_the_last_mongod(folder):
    embedded.start(str(folder))
    embedded.stop(str(folder))
    until(lambda: is_gone(folder))
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (folder / "data" / "mongod.lock").write_text(f"{stranger.pid}\n")

        embedded.start(str(folder))

        assert stranger.poll() is None
        stranger.kill()


def test_a_taken_port_is_replaced_and_the_data_stays(folder):
    url = embedded.start(str(folder))
    write(url, 1)
    embedded.stop(str(folder))
    until(lambda: is_gone(folder))
    with socket.create_server(("127.0.0.1", embedded._port(folder))) as other:
        threading.Thread(target=hang_up_on_all, args=[other], daemon=True).start()

        new = embedded.start(str(folder))

        assert new != url
        assert values(new) == [1]
        assert embedded.start(str(folder)) == new
        other.shutdown(socket.SHUT_RDWR)


def hang_up_on_all(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def test_a_server_of_another_folder_on_the_remembered_port_is_not_joined(
    folder, tmp_path
):
    url = embedded.start(str(folder))
    other = tmp_path / "other"
    other.mkdir()
    (other / "start.lock").touch()
    (other / "server.json").write_text(json.dumps({"port": embedded._port(folder)}))
    try:
        assert embedded.start(str(other)) != url
    finally:
        embedded.stop(str(other))
        until(lambda: is_gone(other))


# What cannot work


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], str]:
    def make(script: str) -> str:
        path = tmp_path / "mongod"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_a_mongod_that_cannot_run_is_reported_with_what_it_said(folder, fake):
    said = "error while loading shared libraries: libcrypto.so.1.1"
    mongod = fake(f"echo '{said}' >&2; exit 127")

    with pytest.raises(StoreUnavailable) as caught:
        embedded.start(str(folder), mongod)

    assert said in caught.value.reason
    assert "code 127" in caught.value.reason
    assert str(folder / "keeper.log") in caught.value.reason


def test_a_mongod_that_gives_up_is_reported_with_its_logged_error(folder):
    (folder / "data").mkdir(parents=True)
    (folder / "start.lock").touch()
    (folder / "data" / "storage.bson").write_text("not what mongod wrote")

    with pytest.raises(StoreUnavailable, match="storage engine metadata"):
        embedded.start(str(folder))


def test_a_mongod_that_never_answers_is_reported_after_a_time(
    folder, fake, monkeypatch
):
    monkeypatch.setattr(embedded, "START_SECONDS", 0.5)

    with pytest.raises(StoreUnavailable, match=r"not ready: .*refused.*mongod\.log"):
        embedded.start(str(folder), fake("exec sleep 60"))


def test_a_folder_that_takes_no_file_is_reported(folder):
    (folder / "server.json").mkdir(parents=True)  # as a full disk, without one
    (folder / "start.lock").touch()

    with pytest.raises(StoreUnavailable, match=r"did not start: .*server\.json"):
        embedded.start(str(folder))


def test_who_could_not_start_is_no_owner_and_may_try_again(folder, fake):
    with pytest.raises(StoreUnavailable):
        embedded.start(str(folder), fake("exit 1"))

    assert folder not in embedded._owned
    assert embedded.start(str(folder)).startswith("mongodb://")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ImproperlyConfigured, match="is not a folder"):
        embedded.start(str(tmp_path / "file"))
    with pytest.raises(ImproperlyConfigured, match="cannot be used: Not a directory"):
        embedded.start(str(tmp_path / "file" / "below"))


def test_a_folder_with_files_of_others_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")

    with pytest.raises(ImproperlyConfigured, match=r"contains other files \(thesis"):
        embedded.start(str(tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_refused(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(ImproperlyConfigured, match="cannot be used: Permission denied"):
        embedded.start(str(tmp_path))


def test_windows_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")

    with pytest.raises(ImproperlyConfigured, match="needs Linux or macOS"):
        embedded.start(str(tmp_path))


def test_giving_up_what_was_never_started_does_nothing():
    embedded.stop("never-started")


# Finding mongod


def test_the_given_mongod_comes_first_and_must_be_executable(fake, tmp_path):
    assert embedded.find_mongod(fake("")) == str(tmp_path / "mongod")
    with pytest.raises(ImproperlyConfigured, match="not an executable file"):
        embedded.find_mongod(str(tmp_path))


def test_the_mongod_on_path_comes_before_the_one_of_the_package(
    fake, tmp_path, monkeypatch
):
    mongod = fake("")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert embedded.find_mongod(None) == mongod


def test_the_mongod_of_the_package_is_found_without_importing_it(tmp_path, monkeypatch):
    binary = tmp_path / "fiftyone" / "db" / "bin" / "mongod"
    binary.parent.mkdir(parents=True)
    (tmp_path / "fiftyone" / "__init__.py").write_text("raise RuntimeError")
    binary.touch(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(tmp_path)

    assert embedded.find_mongod(None) == str(binary)


def test_without_a_mongod_the_three_ways_to_get_one_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "fiftyone", raising=False)

    with pytest.raises(ImproperlyConfigured) as caught:
        embedded.find_mongod(None)

    for way in ("OSSY_EVENT_STORE['MONGOD']", "PATH", "ossy_event_store[embedded]"):
        assert way in str(caught.value)
