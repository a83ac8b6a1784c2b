"""The gateway as a process: argv, configuration, event loop, run.

python server.py --config config.toml [--host H] [--port P] [--check]
python server.py --demo
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp.web_response
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from tarstream import demo, log
from tarstream.app import Gateway, runner_of
from tarstream.auth import Auth, SecretsError
from tarstream.catalogs import CATALOGS
from tarstream.catalogs.base import Catalog, CatalogError
from tarstream.catalogs.template import TemplateSettings
from tarstream.config import ConfigError, Limits, Log, Server, Settings, Upstream, load

logger = logging.getLogger("tarstream")


def main() -> int:
    """Run until told to stop; the exit status."""
    arguments = _arguments()
    if arguments.demo:
        log.set_up("text", "info")
        return _run(lambda: _demo(arguments))
    try:
        settings = _bound(load(arguments.config), arguments)
        gateway = Gateway(settings, _catalog(settings))
    except (ConfigError, CatalogError, SecretsError) as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.check:
        print(f"{arguments.config}: ok")
        return 0
    log.set_up(settings.log.format, settings.log.level)
    # A large catalog is not to be walked by every full collection: each stalls all downloads.
    gc.collect()
    gc.freeze()
    return _run(lambda: serve(gateway, settings.server))


async def serve(
    gateway: Gateway, server: Server, listening: Callable[[int], None] | None = None
) -> int:
    """Listen, and drain at SIGTERM or SIGINT; the exit status. `listening` is told the port."""
    signals = _signals()
    runner = runner_of(gateway)
    await runner.setup()
    try:
        host, port = server.host, server.port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            # asyncio wraps what the system said; names that are not found have errors of their own.
            number = error.errno or 0
            reason = os.strerror(number).lower() if number > 0 else error.strerror
            print(f"cannot listen on {_authority(host, port)}: {reason}", file=sys.stderr)
            return 1
        port = runner.addresses[0][1]
        logger.info("listening", extra={"fields": {"host": host, "port": port}})
        if listening is not None:
            listening(port)
        return await _until_stopped(gateway, signals)
    finally:
        await runner.cleanup()


def _signals() -> asyncio.Queue[None]:
    """An item for each SIGTERM and SIGINT from here on."""
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
    return signals


async def _until_stopped(gateway: Gateway, signals: asyncio.Queue[None]) -> int:
    """Wait for a signal, then until all is sent, the time is over, or a second signal comes."""
    await signals.get()
    draining = asyncio.ensure_future(gateway.drain())
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
    if again.done():
        draining.cancel()
        cut = await gateway.cut()
    else:
        again.cancel()
        cut = await draining
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
        )
        settings = _bound(settings, arguments)

        def listening(port: int) -> None:
            archive = f"http://{_authority(settings.server.host, port)}{demo.archive_path()}"
            print(f"\n  Paste this elsewhere:\n\n    curl -s '{archive}' | tar xv\n", flush=True)

        return await serve(Gateway(settings, _catalog(settings)), settings.server, listening)
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


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _catalog(settings: Settings) -> Catalog:
    kind: str = settings.catalog.kind  # type: ignore[attr-defined]  # each kind has one
    return CATALOGS[kind].catalog(settings.catalog)


def _run(serving: Callable[[], Coroutine[Any, Any, int]]) -> int:
    _tame_aiohttp()
    try:
        import uvloop  # noqa: PLC0415 - where the platform has it
    except ImportError:
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(serving())


def _tame_aiohttp() -> None:
    """What aiohttp says about itself, and has no setting for."""
    # Its answer to a request that it cannot parse passes none of our code.
    aiohttp.web_response.SERVER_SOFTWARE = "tarstream"  # type: ignore[attr-defined]
    logging.getLogger("aiohttp.server").addFilter(_quietly)
    if HttpRequestParser is HttpRequestParserPy:
        logger.warning("aiohttp has no C parser here; the one in Python is slow")


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
