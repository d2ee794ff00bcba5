"""All servers once for the session; their logs show where a test fails."""

from collections.abc import Iterator

import pytest
from service_stack import Stack

_started: list[Stack] = []


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The servers, ready to be used."""
    made = Stack(tmp_path_factory.mktemp("stack"))
    _started.append(made)
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture(autouse=True)
def revived(stack: Stack) -> Iterator[None]:
    """Leave no server down for the next test."""
    yield
    stack.revive()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the servers' last lines to the report of a failed test."""
    report = yield
    if report.failed and _started:
        report.sections += [(f"log of {service.name}", service.tail()) for service in _started[0].services]
    return report
