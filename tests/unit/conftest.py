"""A test in this folder that starts a process fails, unless it is marked as one of those that do."""

import sys
from collections.abc import Iterator

import pytest

STARTS = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system", "os.exec")
_forbidden = False


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if _forbidden and event in STARTS:
        raise RuntimeError(f"{event} in a test that starts no process: it belongs into tests/node, or is marked so.")


sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuse to start processes while a unit test runs."""
    global _forbidden  # noqa: PLW0603 - an audit hook cannot be taken back
    _forbidden = request.node.get_closest_marker("node") is None
    yield
    _forbidden = False
