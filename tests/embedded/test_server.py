"""The embedded server: who joins it, where it runs, and what it reports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from pymongo import MongoClient

from ossy_event_store.embedded import server as embedded
from ossy_event_store.exceptions import StoreUnavailable
from tests.support.embedded import (
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


@pytest.mark.chaos  # alone, as it measures
def test_start_takes_at_most_three_seconds(folder):
    began = time.monotonic()

    start(folder)

    assert time.monotonic() - began < 3


def test_start_returns_the_url_of_a_primary(folder):
    url = start(folder)

    with MongoClient(url) as client:
        hello = client.admin.command("hello")
    assert hello["isWritablePrimary"]
    assert url == f"mongodb://{hello['me']}/?replicaSet=ossy"


def test_the_server_has_transactions(folder):
    with MongoClient(start(folder)) as client:
        client.test.create_collection("things")
        with client.start_session() as session, session.start_transaction():
            client.test.things.insert_one({}, session=session)
            session.abort_transaction()
        assert client.test.things.count_documents({}) == 0


def test_a_new_folder_takes_less_than_50_megabytes(folder):
    start(folder)

    taken = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    assert 2**20 < taken < 50 * 2**20


def test_a_record_larger_than_a_file_of_the_journal_outlives_kill_9(folder):
    big = [os.urandom(9_000_000) for _ in range(2)]
    with MongoClient(start(folder)) as client:
        for each in big:
            client.test.things.insert_one({"b": each})
        os.kill(client.admin.command("serverStatus")["pid"], signal.SIGKILL)
    until(lambda: not embedded._keeper_lives(folder))

    with MongoClient(start(folder)) as client:
        assert [thing["b"] for thing in client.test.things.find()] == big


def test_the_same_process_gets_the_same_url_at_once(folder):
    url = start(folder)
    began = time.monotonic()

    assert start(folder) == url
    assert time.monotonic() - began < 0.1


def test_a_second_process_joins(folder):
    url = start(folder)

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
        threading.Thread(target=lambda: urls.append(start(folder))) for _ in range(4)
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
        url = start("server")
        monkeypatch.chdir("elsewhere")

        assert start("server") == url == start(folder)
    finally:
        embedded.stop("server")


def test_a_taken_port_is_replaced_and_the_data_stays(folder):
    url = start(folder)
    write(url, 1)
    embedded.stop(str(folder))
    until(lambda: is_gone(folder))
    with socket.create_server(("127.0.0.1", embedded._port(folder))) as other:
        threading.Thread(target=hang_up_on_all, args=[other], daemon=True).start()

        new = start(folder)

        assert new != url
        assert values(new) == [1]
        assert start(folder) == new
        other.shutdown(socket.SHUT_RDWR)


def hang_up_on_all(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def test_a_server_of_another_folder_on_the_remembered_port_is_not_joined(
    folder, tmp_path
):
    url = start(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "start.lock").touch()
    (other / "server.json").write_text(json.dumps({"port": embedded._port(folder)}))
    try:
        assert start(other) != url
    finally:
        embedded.stop(str(other))
        until(lambda: is_gone(other))


# --- what cannot work


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], str]:
    def make(script: str) -> str:
        path = tmp_path / "mongod"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_a_mongod_that_cannot_run_is_reported_with_its_output(folder, fake):
    said = "error while loading shared libraries: libcrypto.so.1.1"
    mongod = fake(f"echo '{said}' >&2; exit 127")

    with pytest.raises(StoreUnavailable) as caught:
        start(folder, mongod)

    assert said in caught.value.reason
    assert "code 127" in caught.value.reason
    assert str(folder / "keeper.log") in caught.value.reason


def test_a_mongod_that_gives_up_is_reported_with_its_logged_error(folder):
    (folder / "data").mkdir(parents=True)
    (folder / "start.lock").touch()
    (folder / "data" / "storage.bson").write_text("not what mongod wrote")

    with pytest.raises(StoreUnavailable, match="storage engine metadata"):
        start(folder)


def test_a_mongod_that_never_answers_is_reported_after_a_time(folder, fake):

    with pytest.raises(StoreUnavailable, match=r"not ready: .*refused.*mongod\.log"):
        start(folder, fake("exec sleep 60"), patience=0.5)


def test_a_folder_that_takes_no_file_is_reported(folder):
    (folder / "server.json").mkdir(parents=True)  # as a full disk, without one
    (folder / "start.lock").touch()

    with pytest.raises(StoreUnavailable, match=r"did not start: .*server\.json"):
        start(folder)


def test_a_process_that_failed_to_start_is_no_owner_and_may_retry(folder, fake):
    with pytest.raises(StoreUnavailable):
        start(folder, fake("exit 1"))

    assert folder not in embedded._owned
    assert start(folder).startswith("mongodb://")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ImproperlyConfigured, match="is not a folder"):
        start(tmp_path / "file")
    with pytest.raises(ImproperlyConfigured, match="cannot be used: Not a directory"):
        start(tmp_path / "file" / "below")


def test_a_folder_with_other_files_is_refused_and_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")

    with pytest.raises(ImproperlyConfigured, match=r"contains other files \(thesis"):
        start(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_refused(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(ImproperlyConfigured, match="cannot be used: Permission denied"):
        start(tmp_path)


def test_windows_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")

    with pytest.raises(ImproperlyConfigured, match="needs Linux or macOS"):
        start(tmp_path)


def test_stopping_a_server_that_was_never_started_does_nothing():
    embedded.stop("never-started")


# --- finding mongod


def test_the_configured_mongod_comes_first_and_must_be_executable(fake, tmp_path):
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
