"""How a process of the tests gets the pytest plugin of the test kit."""

from importlib.metadata import entry_points

from ossy_event_store.testing import plugin

# pytest loads it where the package is installed; here, it may just be on the path.
_is_installed = any(
    one.value == plugin.__name__ for one in entry_points(group="pytest11")
)
LOAD_PLUGIN = () if _is_installed else ("-p", plugin.__name__)
