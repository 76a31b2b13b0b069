"""What the driver sends to the server."""

from collections import defaultdict

from pymongo import monitoring


class Listener(monitoring.CommandListener):
    """Keeps the commands that were sent, by their names."""

    def __init__(self):
        self.sent = defaultdict(list)

    def started(self, event):
        self.sent[event.command_name].append(dict(event.command))

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass
