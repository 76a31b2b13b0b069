"""A client of server-sent events, as a browser's ``EventSource`` is one."""

import http.client
import json
import socket
import time
from dataclasses import dataclass

PATIENCE = 60  # seconds


@dataclass(frozen=True)
class Message:
    name: str
    id: str
    data: dict


class Source:
    """
    One connection. It knows the last id that it was sent, with a message or without.

    ``window`` makes the buffer of its socket small, as a slow line has it.
    """

    def __init__(self, port, path, last=None, window=None):
        self.last = last
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=PATIENCE
        )
        if window:
            self._connection.sock = narrow(port, window)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        self._connection.request("GET", path, headers=headers)
        self.answer = self._connection.getresponse()
        self.status = self.answer.status

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.close()

    def close(self):
        self.answer.close()
        self._connection.close()

    def block(self):
        """Return the fields of the next block of lines, None at the end."""
        fields = {}
        while line := self.answer.readline():
            if line == b"\n":
                if "id" in fields:
                    self.last = fields["id"]
                return fields
            name, _, value = line.decode().rstrip("\n").partition(": ")
            assert name not in fields, (name, value)
            fields[name] = value
        return None

    def begin(self):
        """Wait until it is told of new events."""
        assert self.status == 200, self.answer.read()
        assert self.block().keys() == {"retry"}
        self.block()
        return self

    def message(self):
        """Return the next message, None at the end."""
        deadline = time.monotonic() + PATIENCE
        while (fields := self.block()) is not None:
            if "data" in fields:
                data = json.loads(fields["data"])
                return Message(fields.get("event", "message"), fields["id"], data)
            # Signs of life go on for ever.
            assert time.monotonic() < deadline, "no message came"
        return None

    def take(self, count):
        return [self.message() for _ in range(count)]


def narrow(port, window):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    return sock
