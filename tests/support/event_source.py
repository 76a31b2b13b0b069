"""A client of server-sent events, like a browser's ``EventSource``."""

import http.client
import json
import socket
import time
from dataclasses import dataclass

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Message:
    name: str
    id: str
    data: dict


class Source:
    """
    One connection. It remembers the last id, which may arrive without a message.

    ``window`` makes the buffer of its socket small, as on a slow line.
    """

    def __init__(self, port, path, last=None, window=None):
        self.last = last
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=PATIENCE_SECONDS
        )
        if window:
            self.connection.sock = _narrow_socket(port, window)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        self.connection.request("GET", path, headers=headers)
        self.response = self.connection.getresponse()
        self.status = self.response.status

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.close()

    def close(self):
        self.response.close()
        self.connection.close()

    def block(self):
        """Return the fields of the next block of lines, None at the end."""
        fields = {}
        while line := self.response.readline():
            if line == b"\n":
                if "id" in fields:
                    self.last = fields["id"]
                return fields
            name, _, value = line.decode().rstrip("\n").partition(": ")
            assert name not in fields, (name, value)
            fields[name] = value
        return None

    def begin(self):
        """Wait until the connection receives new events."""
        assert self.status == 200, self.response.read()
        assert self.block().keys() == {"retry"}
        self.block()
        return self

    def message(self):
        """Return the next message, None at the end."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (fields := self.block()) is not None:
            if "data" in fields:
                data = json.loads(fields["data"])
                return Message(fields.get("event", "message"), fields["id"], data)
            # Heartbeats would keep this loop alive for ever.
            assert time.monotonic() < deadline, "no message arrived"
        return None

    def take(self, count):
        """Return the next messages."""
        return [self.message() for _ in range(count)]


def _narrow_socket(port, window):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    sock.settimeout(PATIENCE_SECONDS)
    sock.connect(("127.0.0.1", port))
    return sock
