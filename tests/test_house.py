"""The house: which module may know which. A table, so that a change of it is a decision."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from gateway import ROOT

from tarstream.catalogs import CATALOGS
from tarstream.formats import FORMATS

FLOORS = [
    {"__main__", "server"},
    {"app"},
    {"openapi"},
    {"assembly", "download", "plan"},
    {"admission", "problem", "request", "response"},
    {"archive", ""},
    {"library"},
    {"blocking"},
    {"member", "origins", "stream"},
    {"config", "resolve", "transfer"},
    {"asking", "checksums"},
    {"auth", "catalogs", "mistakes"},
    {"digests"},
    {"memory"},
    {"stores"},
    {"metrics"},
    {"listener", "observer", "tally", "workers"},
    {"query"},
    {"disposition", "formats"},
    {"compress"},
    {
        "answer",
        "conditional",
        "demo",
        "errors",
        "layout",
        "log",
        "names",
        "portion",
        "proxies",
        "signing",
        "width",
    },
    {"splice", "watched"},
]
"""From the top down. Imports lead to a lower floor only; a package is one room."""

PURE = [
    "conditional",
    "disposition",
    "errors",
    "formats",
    "formats.tar",
    "formats.zip",
    "layout",
    "names",
    "proxies",
    "query",
]
"""Plain functions of data: neither asyncio nor aiohttp, nor anything that needs them."""

AIOHTTP = {
    "server", "app", "demo", "download", "listener", "problem", "request", "response",
    "stores.bypass", "stores.exchange", "stores.guard", "stores.http",
}  # fmt: skip
"""Where HTTP is spoken."""

PYDANTIC = {"auth", "config", "mistakes", "catalogs", "catalogs.file", "catalogs.template"}
"""Where settings are validated."""


def name_of(path):
    if path.name == "server.py":
        return "server"
    parts = path.relative_to(ROOT / "tarstream").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {
    name_of(path): path for path in [ROOT / "server.py", *(ROOT / "tarstream").rglob("*.py")]
}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}

MODULES = pytest.mark.parametrize("module", TREES)


def imported(module):
    """Full names of all that a module imports, wherever in it."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def known(module):
    """The modules of the house that a module imports."""
    for name in imported(module):
        inside = name.removeprefix("tarstream.")
        if inside != name and inside in TREES:
            yield inside


def room(module):
    return module.partition(".")[0]


def floor(module):
    found = [number for number, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert len(found) == 1, f"{room(module)} has no floor, or several: put it in FLOORS"
    return found[0]


def test_every_room_has_one_floor():
    assert {room(module) for module in TREES if module} <= set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS))


@MODULES
def test_imports_lead_downward_only(module):
    for other in known(module):
        if room(other) != room(module):
            assert floor(other) > floor(module), f"{module} imports {other}"


def test_no_two_modules_import_each_other():
    graph = {
        module: set(known(module)) - {module} - ({room(module)} if "." in module else set())
        for module in TREES
    }
    assert list(TopologicalSorter(graph).static_order())


@MODULES
def test_nothing_imports_its_own_package(module):
    if "." in module:
        assert room(module) not in known(module)


def test_the_interface_of_a_package_knows_none_of_those_who_have_it():
    for package in ("catalogs", "stores"):
        assert not [other for other in known(f"{package}.base") if room(other) == package]


def test_pure_modules_need_neither_asyncio_nor_aiohttp():
    """Not even by way of something else."""
    program = (
        "import importlib, sys\n"
        "before = set(sys.modules)\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module('tarstream.' + name)\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *PURE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "tarstream" in loaded
    assert not loaded & {"aiohttp", "asyncio", "pydantic", "socket", "ssl", "yarl"}


@MODULES
def test_libraries_stand_where_they_belong(module):
    libraries = {name.partition(".")[0] for name in imported(module)}
    assert ("aiohttp" in libraries) <= (module in AIOHTTP)
    assert bool(libraries & {"pydantic", "pydantic_core", "pydantic_settings"}) <= (
        module in PYDANTIC
    )
    assert libraries <= sys.stdlib_module_names | {
        "aiohttp", "backports", "compression", "isal", "prometheus_client", "pydantic",
        "pydantic_core", "pydantic_settings", "tarstream", "uvloop", "yarl",
    }  # fmt: skip


@MODULES
def test_what_is_shipped_knows_nothing_of_what_is_not(module):
    beside = {path.stem for path in ROOT.glob("*/*.py") if path.parent.name != "tarstream"}
    beside |= {"tests", "benchmarks", "examples", "pytest", "hypothesis"}
    assert not {name.partition(".")[0] for name in imported(module)} & beside


@MODULES
def test_every_module_says_in_a_line_what_it_is(module):
    docstring = ast.get_docstring(TREES[module])
    assert docstring
    first, *others = docstring.split("\n")
    assert first.endswith((".", "`"))
    assert not others or not others[0]


@MODULES
def test_a_module_is_one_noun(module):
    assert not {"models", "utils", "util", "helpers", "common", "misc"} & set(module.split("."))
    assert len(SOURCES[module].read_text().splitlines()) < 360, "look for the second noun in it"


@pytest.mark.parametrize(("package", "table"), [("formats", FORMATS), ("catalogs", CATALOGS)])
def test_a_module_of_a_package_is_a_line_in_its_table(package, table):
    modules = {module.partition(".")[2] for module in TREES if module.startswith(package + ".")}
    assert modules - {"base"} == set(table)
