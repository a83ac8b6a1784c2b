"""What most tests need: an origin that may fail, and a gateway in front of it."""

import gc
from contextlib import AsyncExitStack

import aiohttp
import pytest
from gateway import running, write_catalog
from hypothesis import HealthCheck, settings
from origin import Origin

# How long an example takes says something about the machine, not about the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Have the collector leave alone what lives until the end: it would stop a test to look at it.

    A second of it, on a busy machine, is an origin or a client that is silent for so long.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
async def origin():
    """An origin, honest until told otherwise."""
    async with Origin() as origin:
        yield origin


@pytest.fixture
async def start(tmp_path):
    """Starts gateways in this process.

    `await start(origin)` looks ids up as paths of the origin; `await start(origin, entries)` in a
    catalog file; further keywords are sections of the configuration.
    """
    async with AsyncExitStack() as stack:

        async def start(origin, entries=None, **sections):
            catalog = {"kind": "template", "url": f"{origin.root}/{{id}}"}
            if entries is not None:
                path = write_catalog(tmp_path / "catalog.jsonl", entries)
                catalog = {"kind": "file", "path": path}
            allow = sections.pop("allow", [origin.root])
            return await stack.enter_async_context(running(catalog, allow, **sections))

        yield start


@pytest.fixture
async def client():
    """An HTTP client that takes URLs as they are and decodes nothing."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that is skipped proves nothing: it counts as failed."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
    return report
