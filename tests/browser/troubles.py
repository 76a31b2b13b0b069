"""The complaints of the browser during a test, which make the test fail."""

from contextlib import contextmanager


class Troubles(list):
    """The complaints in order, as lines of text."""

    def watch(self, context):
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.append(f"thrown: {error.error}"))
        context.on("requestfailed", self._on_failure)

    def _on_console(self, message):
        # Chromium logs violations of the policy there, and responses of 400 and above.
        if message.type == "error":
            self.append(f"console: {message.text} ({message.location['url']})")

    def _on_failure(self, request):
        # Leaving a page while it loads aborts its requests.
        if request.failure != "net::ERR_ABORTED":
            self.append(f"failed: {request.url} ({request.failure})")

    @contextmanager
    def expected(self, page, text):
        """Wait for a console error with ``text``, and ignore all that have it."""
        with page.expect_console_message(lambda message: text in message.text):
            yield
        self[:] = [trouble for trouble in self if text not in trouble]

    def settle(self, context):
        """Wait until every page has loaded, and raise the complaints."""
        for page in context.pages:
            page.wait_for_load_state("load")
            # The answer arrives after every earlier message.
            page.evaluate("0")
        found = "\n".join(self)
        self.clear()
        assert not found, f"The browser complained:\n{found}"
