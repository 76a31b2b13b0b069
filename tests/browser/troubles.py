"""What the browser complains of while a test runs, which makes the test fail."""

from contextlib import contextmanager


class Troubles(list):
    """The complaints in order, each a line of text."""

    def watch(self, context):
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.append(f"thrown: {error.error}"))
        context.on("requestfailed", self._on_failure)

    def _on_console(self, message):
        # Chromium writes there what breaks the policy, and answers from 400 on.
        if message.type == "error":
            self.append(f"console: {message.text} ({message.location['url']})")

    def _on_failure(self, request):
        # A page that is left while it loads ends its own requests.
        if request.failure != "net::ERR_ABORTED":
            self.append(f"failed: {request.url} ({request.failure})")

    @contextmanager
    def expected(self, page, text):
        """Wait for a console error with ``text``; all that have it are forgiven."""
        with page.expect_console_message(lambda message: text in message.text):
            yield
        self[:] = [trouble for trouble in self if text not in trouble]

    def settle(self, context):
        """Raise what there is, once every page has loaded and said all."""
        for page in context.pages:
            page.wait_for_load_state("load")
            # An answer comes behind all that was said before it.
            page.evaluate("0")
        found = "\n".join(self)
        self.clear()
        assert not found, f"The browser complained:\n{found}"
