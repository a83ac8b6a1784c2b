"""The gateway as a process: argv, configuration, event loop, run.

python server.py --config config.toml [--host H] [--port P] [--check]
python server.py --demo
"""

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp.web_response
from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError

from tarstream import demo, log
from tarstream.app import Gateway, runner_of
from tarstream.auth import Auth
from tarstream.catalogs import CATALOGS
from tarstream.catalogs.base import Catalog, CatalogError
from tarstream.catalogs.template import TemplateSettings
from tarstream.config import (
    ConfigError,
    Limits,
    Log,
    Metrics,
    Server,
    Settings,
    Upstream,
    Zip,
    load,
)
from tarstream.listener import BACKLOG, CannotListen, Loads, SharedSite, authority, bind, port_of
from tarstream.metrics import Metrics as Numbers
from tarstream.tally import Share, Tally, forget
from tarstream.watched import Unusable
from tarstream.workers import Alone, Supervisor, Worker

try:
    import resource
except ImportError:  # Windows, where descriptors have no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("tarstream")


class Sockets(NamedTuple):
    """Where it listens."""

    gateway: list[socket.socket]
    metrics: list[socket.socket]
    loads: Loads


def main() -> int:
    """Run until told to stop; the exit status."""
    arguments = _arguments()
    if _parses_in_python():
        print(
            "aiohttp: its HTTP parser in C is not in use; install a wheel that has it, "
            "and unset AIOHTTP_NO_EXTENSIONS",
            file=sys.stderr,
        )
        return 2
    try:
        if arguments.demo:
            log.set_up("text", "info")
            return _run(lambda: _demo(arguments))
        settings = _bound(load(arguments.config), arguments)
        catalog = _catalog(settings)
        gateway = Gateway(settings, catalog)
        if arguments.check:
            print(f"{arguments.config}: ok")
            return 0
        log.set_up(settings.log.format, settings.log.level)
        # A large catalog is not to be walked by every full collection: each stalls all downloads.
        gc.collect()
        gc.freeze()
        sockets = _listen(settings)
        if settings.server.workers > 1:
            return _share(settings, catalog, sockets)
        return _run(lambda: serve(gateway, sockets, Alone(), lambda: _tell(settings, sockets)))
    except (ConfigError, CatalogError, Unusable) as error:
        print(error, file=sys.stderr)
        return 2
    except CannotListen as error:
        print(error, file=sys.stderr)
        return 1


async def serve(
    gateway: Gateway,
    sockets: Sockets,
    process: Alone | Worker,
    listening: Callable[[], None] | None = None,
) -> int:
    """Serve, and drain when told to; the exit status. `listening` is called when it does."""
    signals = process.signals()
    async with AsyncExitStack() as stack:
        runner = runner_of(gateway)
        await _set_up(stack, runner)
        for each in sockets.gateway:
            if isinstance(process, Worker):
                await SharedSite(runner, each, sockets.loads, process.number).start()
            else:
                await web.SockSite(runner, each, backlog=BACKLOG).start()
        if sockets.metrics:
            # It tells of the draining too.
            numbers = web.AppRunner(gateway.metrics_application(), access_log=None)
            await _set_up(stack, numbers)
            for each in sockets.metrics:
                await web.SockSite(numbers, each).start()
        if listening is not None:
            listening()
        return await _until_stopped(gateway, signals, process)


def _share(settings: Settings, catalog: Catalog, sockets: Sockets) -> int:
    """Serve with several processes; the exit status."""
    server = settings.server
    tally = Tally(server.workers)

    def work(worker: Worker) -> int:
        log.add_fields(worker=os.getpid())
        numbers = Numbers(Share(tally, worker.number))
        try:
            # The memory of the first ones is one. Later the files may say something else: a token
            # that was taken away is not to come back.
            gateway = Gateway(settings, catalog if worker.first else _catalog(settings), numbers)
        except (CatalogError, Unusable) as error:
            logger.error("%s", error)
            return 2

        async def serving() -> int:
            async with numbers.published():
                return await serve(gateway, sockets, worker)

        return _run(serving)

    def lost(number: int) -> None:
        forget(tally, number)
        sockets.loads.forget(number)

    return Supervisor(
        server.workers,
        work,
        lost=lost,
        drain_seconds=server.drain_delay + server.shutdown_timeout,
    ).run(lambda: _tell(settings, sockets))


def _listen(settings: Settings) -> Sockets:
    server, metrics = settings.server, settings.metrics
    return Sockets(
        bind(server.host, server.port),
        bind(metrics.host, metrics.port) if metrics.port else [],
        Loads(server.workers),
    )


def _tell(settings: Settings, sockets: Sockets) -> None:
    fields = {"host": settings.server.host, "port": port_of(sockets.gateway)}
    if settings.server.workers > 1:
        fields["workers"] = settings.server.workers
    logger.info("listening", extra={"fields": fields})


async def _set_up(stack: AsyncExitStack, runner: web.AppRunner) -> None:
    """Let it run until the stack is left."""
    await runner.setup()
    stack.push_async_callback(runner.cleanup)


async def _until_stopped(
    gateway: Gateway, signals: asyncio.Queue[None], process: Alone | Worker
) -> int:
    """Wait for a signal, then until all is sent, the time is over, or a second signal comes."""
    await signals.get()
    draining = asyncio.ensure_future(gateway.drain())
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        cut = await draining
        together = asyncio.ensure_future(process.all_drained())
        await asyncio.wait([together, again], return_when=asyncio.FIRST_COMPLETED)
        together.cancel()
        again.cancel()
    else:
        draining.cancel()
        cut = await gateway.cut()
    logger.info("stopped", extra={"fields": {"cut": cut}})
    return 1 if cut else 0


async def _demo(arguments: argparse.Namespace) -> int:
    """The gateway, and an origin for it."""
    origin = demo.SampleOrigin()
    url = await origin.start()
    try:
        settings = Settings.model_construct(  # whatever the environment says
            server=Server(),
            auth=Auth(),
            catalog=TemplateSettings(kind="template", url=f"{url}/{{id}}"),
            upstream=Upstream(allow=(url,)),
            limits=Limits(),
            log=Log(),
            zip=Zip(),
            metrics=Metrics(),
        )
        settings = _bound(settings, arguments)
        sockets = _listen(settings)

        def listening() -> None:
            _tell(settings, sockets)
            at = authority(settings.server.host, port_of(sockets.gateway))
            archive = f"http://{at}{demo.archive_path()}"
            print(f"\n  Paste this elsewhere:\n\n    curl -s '{archive}' | tar xv\n", flush=True)

        return await serve(Gateway(settings, _catalog(settings)), sockets, Alone(), listening)
    finally:
        await origin.stop()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A streaming archive gateway.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="settings, see config.toml")
    what.add_argument("--demo", action="store_true", help="serve sample files of a sample origin")
    parser.add_argument("--host", metavar="H", help="listen here instead of [server] host")
    parser.add_argument("--port", metavar="P", type=_port, help="instead of [server] port")
    parser.add_argument("--check", action="store_true", help="only validate the configuration")
    return parser.parse_args()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def _bound(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """The settings with what the command line says instead."""
    given = {
        key: value
        for key, value in (("host", arguments.host), ("port", arguments.port))
        if value is not None
    }
    return settings.model_copy(update={"server": settings.server.model_copy(update=given)})


def _catalog(settings: Settings) -> Catalog:
    kind: str = settings.catalog.kind  # type: ignore[attr-defined]  # each kind has one
    return CATALOGS[kind].catalog(settings.catalog)


def _run(serving: Callable[[], Coroutine[Any, Any, int]]) -> int:
    _raise_descriptors()
    _tame_aiohttp()
    try:
        import uvloop  # noqa: PLC0415 - where the platform has it
    except ImportError:
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(serving())


def _raise_descriptors() -> None:
    """Use as many file descriptors as we may have: an archive takes two, and some for ahead.

    With the soft limit that is usual, 1,024, [limits] max_archives would not be reached.
    """
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):  # macOS says infinity, and takes less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tame_aiohttp() -> None:
    """What aiohttp says about itself, and has no setting for."""
    # Its answer to a request that it cannot parse passes none of our code.
    aiohttp.web_response.SERVER_SOFTWARE = "tarstream"  # type: ignore[attr-defined]
    logging.getLogger("aiohttp.server").addFilter(_quietly)


def _parses_in_python() -> bool:
    """Whether aiohttp reads requests, or answers of origins, with its parser in Python.

    It falls back to that silently. It is slow, and not what our limits and attacks by framing were
    tried with.
    """
    return (
        http_parser.HttpRequestParser is http_parser.HttpRequestParserPy
        or http_parser.HttpResponseParser is http_parser.HttpResponseParserPy
    )


def _quietly(record: logging.LogRecord) -> bool:
    """A client that does not speak HTTP is no failure of ours: a line, no traceback."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args, record.exc_info = "not HTTP", (), None
    return True


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there was anything to drain
        sys.exit(130)
