"""Settings: where they come from, what is wrong with them, and that the documentation has them."""

import json
import os
import re
import subprocess
import sys
import tomllib
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from gateway import ROOT, write_catalog
from pydantic import ByteSize, SecretStr, TypeAdapter, ValidationError

from tarstream.catalogs import CATALOGS, file
from tarstream.config import ConfigError, OriginCredential, Settings, load, sections
from tarstream.mistakes import variable

EXAMPLE = ROOT / "config.toml"
REFERENCE = ROOT / "docs" / "configuration.md"


def kind_of(model):
    """Of a catalog's settings, what `kind` says; None of all others."""
    kinds = get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()
    return kinds[0] if len(kinds) == 1 else None


SETTINGS = [
    pytest.param(section, model, key, id=f"{kind_of(model) or section}.{key}")
    for section, model in sections()
    for key in model.model_fields
]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in os.environ:
        if name.upper().startswith("TARSTREAM_"):
            monkeypatch.delenv(name)


BASE = {
    "catalog": 'kind = "template"\nurl = "https://h/{id}"',
    "upstream": 'allow = ["https://h"]',
}


@pytest.fixture
def configured(tmp_path):
    """Writes a file: a valid one, but for what the sections say."""
    path = tmp_path / "config.toml"

    def configured(text=None, **given):
        if text is None:
            both = BASE | {key: f"{BASE.get(key, '')}\n{text}" for key, text in given.items()}
            text = "".join(f"[{section}]\n{lines}\n" for section, lines in both.items())
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return configured


def mistakes(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


# Where settings come from.


def test_sections_are_those_of_the_model():
    assert dict(sections()).keys() == Settings.model_fields.keys()
    assert [model for section, model in sections() if section == "catalog"] == [
        kind.settings for kind in CATALOGS.values()
    ]


AUTH = {
    "kind": ("either", "either"),
    "tokens": ("a-token-of-tests", (SecretStr("a-token-of-tests"),)),
    "tokens_file": ("seven", "seven"),
    "keys": ("k1 a-secret-of-tests", (SecretStr("k1 a-secret-of-tests"),)),
    "keys_file": ("seven", "seven"),
}


def sample(section, model, key):
    """A value that is not the default, as text in the environment, and what it means."""
    field = model.model_fields[key]
    kind = field.annotation
    if section == "catalog" and key == "kind":
        return (get_args(kind)[0],) * 2
    if section == "auth":
        return AUTH[key]
    if get_origin(kind) is Literal:
        return (next(value for value in get_args(kind) if value != field.default),) * 2
    if (section, key) == ("server", "trusted_proxies"):
        return "10.0.0.0/8, ::1/128", (IPv4Network("10.0.0.0/8"), IPv6Network("::1/128"))
    if key == "credentials":
        text = '[{"origin": "https://files.example.com", "header": "X-Key", "file": "seven"}]'
        return text, tuple(OriginCredential(**each) for each in json.loads(text))
    if kind == tuple[str, ...]:
        return "https://seven, https://h", ("https://seven", "https://h")
    if kind is bool:
        return str(not field.default).lower(), not field.default
    if kind is str:
        text = {"base_path": "/seven", "url": "https://h/seven/{id}", "name": "seven/{id}"}
        return (text.get(key, "seven"),) * 2
    samples = {
        int: ("7", 7),
        float: ("7.5", 7.5),
        ByteSize: ("7 KiB", 7168),
        Path: ("seven.jsonl", Path("seven.jsonl")),
    }
    return samples[kind]


@pytest.mark.parametrize(("section", "model", "key"), SETTINGS)
def test_every_setting_may_come_from_the_environment_which_wins(
    tmp_path, monkeypatch, section, model, key
):
    path = tmp_path / "config.toml"
    text = EXAMPLE.read_text()
    if section == "catalog":
        kind = kind_of(model)
        required = {"file": 'path = "x"', "template": 'url = "https://h/{id}"'}[kind]
        text = re.sub(
            r"(?ms)^\[catalog\]\n.*?(?=^\[)", f'[catalog]\nkind = "{kind}"\n{required}\n', text
        )
    if section == "auth":  # a kind without secrets is a mistake
        text = text.replace('kind = "none"', 'kind = "either"').replace('_file = ""', '_file = "x"')
    path.write_text(text)
    before = load(path).model_dump()
    value, meant = sample(section, model, key)
    assert before[section].get(key) != meant or key == "kind"
    monkeypatch.setenv(variable(section, key), value)
    before[section][key] = TypeAdapter(model.model_fields[key].annotation).dump_python(meant)
    assert load(path).model_dump() == before


def test_variables_are_named_as_promised():
    assert variable("server", "port") == "TARSTREAM_SERVER__PORT"
    assert variable("upstream", "ahead_total_bytes") == "TARSTREAM_UPSTREAM__AHEAD_TOTAL_BYTES"


def test_everything_may_come_from_the_environment(configured, monkeypatch):
    path = configured("")
    monkeypatch.setenv("TARSTREAM_CATALOG__KIND", "file")
    monkeypatch.setenv("TARSTREAM_CATALOG__PATH", "123")
    monkeypatch.setenv("TARSTREAM_UPSTREAM__ALLOW", "https://a.example.com")
    settings = load(path)
    assert settings.catalog.path == Path("123")
    assert settings.upstream.allow == ("https://a.example.com",)


def test_a_key_of_the_environment_leaves_the_others_of_its_section(configured, monkeypatch):
    path = configured(server='host = "0.0.0.0"\nport = 1')
    monkeypatch.setenv("TARSTREAM_SERVER__PORT", "2")
    assert (load(path).server.host, load(path).server.port) == ("0.0.0.0", 2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("https://a", ["https://a"]),
        ("https://a,https://b", ["https://a", "https://b"]),
        (" https://a , https://b, ", ["https://a", "https://b"]),
        ('["https://a"]', ["https://a"]),
        (' ["https://a", "https://b"]', ["https://a", "https://b"]),
    ],
)
def test_lists_in_the_environment_have_commas_or_are_json(configured, monkeypatch, text, meant):
    monkeypatch.setenv("TARSTREAM_UPSTREAM__ALLOW", text)
    assert list(load(configured()).upstream.allow) == meant


@pytest.mark.parametrize("text", ["", " ", "[]"])
def test_a_list_in_the_environment_may_be_empty(configured, monkeypatch, text):
    monkeypatch.setenv("TARSTREAM_SERVER__TRUSTED_PROXIES", text)
    assert load(configured(server='trusted_proxies = ["::/0"]')).server.trusted_proxies == ()


def test_variables_that_others_set_do_not_matter(configured, monkeypatch):
    """Kubernetes sets these where a service is called tarstream."""
    before = load(configured()).model_dump()
    monkeypatch.setenv("TARSTREAM_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("TARSTREAM_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("TARSTREAM_SERVER_PORT", "tcp://10.0.0.1:80")
    assert load(configured()).model_dump() == before


def test_settings_cannot_be_changed():
    settings = load(EXAMPLE)
    for section, _ in sections():
        part = getattr(settings, section)
        with pytest.raises(ValueError, match="frozen"):
            setattr(part, next(iter(type(part).model_fields)), 1)


# What is wrong with them.

LOOK_LIKE = "must look like 'https://files.example.com' or 'https://*.example.com'"
PREFIX = "must be like '/files': a slash at its beginning, none at its end"

TWICE = 'origin = "https://h", header = "x", env = "E"'
TWICE += "}, {" + TWICE

WRONG = [
    # Numbers.
    ("limits", "max_members = 0", "max_members: must be at least 1"),
    ("limits", "max_members = -1", "max_members: must be at least 1"),
    ("limits", "max_members = 1.5", "max_members: must be a whole number"),
    ("limits", 'max_members = "many"', "max_members: must be a whole number"),
    ("limits", 'max_members = ""', "max_members: must be a whole number"),
    ("limits", "max_members = []", "max_members: must be a whole number"),
    ("limits", "max_members = {}", "max_members: must be a whole number"),
    ("limits", "max_members = 2024-01-01", "max_members: must be a whole number"),
    ("limits", "max_members = true", "max_members: must not be true or false"),
    ("limits", "max_members = nan", "max_members: must be a finite number"),
    ("limits", "max_archives = 0", "max_archives: must be at least 1"),
    ("upstream", "attempts = 0", "attempts: must be at least 1"),
    ("upstream", "connections = 0", "connections: must be at least 1"),
    ("upstream", "ahead = -1", "ahead: must be at least 0"),
    ("server", "port = -1", "port: must be at least 0"),
    ("server", "port = 65536", "port: must be at most 65535"),
    ("server", f"port = 1{'0' * 400}", "port: must be at most 65535"),
    ("server", "port = false", "port: must not be true or false"),
    # Seconds.
    ("upstream", "patience = 0", "patience: must be more than 0"),
    ("upstream", "read_timeout = -1", "read_timeout: must be more than 0"),
    ("upstream", "connect_timeout = inf", "connect_timeout: must be a finite number"),
    ("upstream", "plan_timeout = nan", "plan_timeout: must be a finite number"),
    ("upstream", 'remember = "a while"', "remember: must be a number"),
    ("upstream", "remember = true", "remember: must not be true or false"),
    ("server", "shutdown_timeout = -1", "shutdown_timeout: must be at least 0"),
    ("limits", "stall_timeout = 0.0", "stall_timeout: must be more than 0"),
    # Bytes.
    ("limits", "max_bytes = 0", "max_bytes: must be at least 1"),
    ("limits", "max_bytes = 4611686018427387905", "max_bytes: must be at most 4611686018427387904"),
    ("limits", "max_bytes = -1", "max_bytes: must be a number of bytes, like '4 MiB'"),
    ("limits", "max_bytes = inf", "max_bytes: must be a number of bytes, like '4 MiB'"),
    ("limits", "max_bytes = true", "max_bytes: must not be true or false"),
    ("limits", "max_bytes = []", "max_bytes: must be a number of bytes, like '4 MiB'"),
    ("limits", 'max_bytes = "lots"', "max_bytes: must be a number of bytes, like '4 MiB'"),
    (
        "upstream",
        'ahead_bytes = "4 XiB"',
        "ahead_bytes: has an unknown unit 'XiB'; write it like '4 MiB'",
    ),
    # Yes or no, words, texts.
    ("server", 'public = "perhaps"', "public: must be true or false"),
    ("server", "public = 2", "public: must be true or false"),
    ("log", 'format = "xml"', "format: must be 'text' or 'json'"),
    ("log", 'level = "trace"', "level: must be 'debug', 'info', 'warning' or 'error'"),
    ("server", "host = 1", "host: must be a string"),
    ("server", 'host = ""', "host: must not be empty"),
    ("server", 'base_path = "files"', f"base_path: {PREFIX}"),
    ("server", 'base_path = "/"', f"base_path: {PREFIX}"),
    ("server", 'base_path = "/files/"', f"base_path: {PREFIX}"),
    ("server", 'base_path = "//evil.example.com"', f"base_path: {PREFIX}"),
    ("server", 'base_path = "/a?b"', f"base_path: {PREFIX}"),
    ("server", 'base_path = "/a\\r\\nX: y"', f"base_path: {PREFIX}"),
    ("server", 'base_path = "/é"', f"base_path: {PREFIX}"),
    # Lists.
    ("server", "trusted_proxies = 1", "trusted_proxies: must be a list of strings"),
    ("server", "trusted_proxies = [1]", "trusted_proxies: must be a list of strings"),
    ("server", "trusted_proxies = [[]]", "trusted_proxies: must be a list of strings"),
    (
        "server",
        'trusted_proxies = ["10.0.0.1/8"]',
        "trusted_proxies: 10.0.0.1/8 has host bits set",
    ),
    (
        "server",
        'trusted_proxies = ["::1", "loopback"]',
        "trusted_proxies: 'loopback' does not appear to be an IPv4 or IPv6 network",
    ),
    # Who may ask.
    ("auth", 'kind = "basic"', "kind: must be 'none', 'bearer', 'signed' or 'either'"),
    ("auth", "tokens_file = 1", "tokens_file: must be a string"),
    ("auth", 'tokens = ["short"]', "tokens: value 1: a token has at least 16 characters"),
    ("auth", 'keys = "[x"', "keys: must be a JSON list, or values with commas between them"),
    # Credentials for origins.
    ("upstream", "credentials = 1", "credentials: must be a list of tables"),
    ("upstream", "credentials = [1]", "credentials[0]: must be a section"),
    *[
        ("upstream", f"credentials = [{{{table}}}]", f"credentials{line}")
        for table, line in [
            ('header = "X", env = "E"', "[0].origin: is required"),
            ('origin = "https://h", env = "E"', "[0].header: is required"),
            ('origin = "https://h", header = "X"', "[0]: needs env or file, and not both"),
            (
                'origin = "https://h", header = "X", env = "E", file = "f"',
                "[0]: needs env or file, and not both",
            ),
            (
                'origin = "https://*.h", header = "X", env = "E"',
                "[0].origin: must be one origin, like 'https://files.example.com'",
            ),
            (
                'origin = "file:///srv", header = "X", env = "E"',
                "[0].origin: must be one origin, like 'https://files.example.com'",
            ),
            ('origin = "h", header = "X", env = "E"', f"[0].origin: 'h' {LOOK_LIKE}"),
            (
                'origin = "https://h", header = "X:", env = "E"',
                "[0].header: must be the name of a header, like 'Authorization'",
            ),
            (
                'origin = "https://h", header = "Range", env = "E"',
                "[0].header: Range says what is asked for, and cannot be set",
            ),
            (
                'origin = "https://other", header = "X", env = "E"',
                ": 'https://other' is not in allow",
            ),
            (
                'origin = "https://h:444", header = "X", env = "E"',
                ": 'https://h:444' is not in allow",
            ),
            (
                TWICE,
                ": 'https://h' has 'x' twice",
            ),
            ('origin = "https://h", header = "X", value = "v"', "[0].value: is not a setting"),
        ]
    ],
    # Keys.
    ("server", "prot = 1", "prot: is not a setting"),
    ("server", '"a\\nb" = 1', "'a\\nb': is not a setting"),
    ("catalog", 'path = "x"', "path: is not a setting of kind 'template'"),
    # The catalog.
    ("catalog", 'name = "x"', "name: must contain {id}"),
    ("catalog", "name = 1", "name: must be a string"),
]


@pytest.mark.parametrize(("section", "text", "line"), WRONG)
def test_a_mistake_is_one_line(configured, section, text, line):
    path = configured(**{section: text})
    assert mistakes(path) == [f"{path}: [{section}] {line}"]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"auth": 'kind = "bearer"'}, "[auth]: kind 'bearer' needs tokens_file or tokens"),
        (
            {"auth": 'keys_file = "x"'},
            "[auth]: keys_file is given, but kind 'none' does not use it",
        ),
        (
            {"auth": 'kind = "bearer"\ntokens_file = "x"', "server": "public = true"},
            "[server] public: must be false where [auth] does not let in everybody",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(configured, sections, line):
    path = configured(**sections)
    assert mistakes(path) == [f"{path}: {line}"]


def test_a_secret_is_in_no_message(configured, monkeypatch):
    monkeypatch.setenv("TARSTREAM_AUTH__TOKENS", "canary-5ecret, canary-5ecret-too é")
    path = configured(auth='kind = "basic"\nkeys = ["canary-5ecret"]', server="port = -1")
    assert "canary" not in str(mistakes(path))
    with pytest.raises(ValidationError) as caught:
        Settings(auth={"kind": "bearer", "tokens": ["canary-5ecret"]})
    assert "canary" not in str(caught.value)


ALLOW = [
    ("[]", "must not be empty"),
    ("1", "must be a list of strings"),
    ("[1]", "must be a list of strings"),
    ('["https://h", "files.example.com"]', f"'files.example.com' {LOOK_LIKE}"),
    ('["https://h/path"]', f"'https://h/path' {LOOK_LIKE}"),
    ('["ftp://h"]', f"'ftp://h' {LOOK_LIKE}"),
    ('["https://user:pw@h"]', f"'https://user:pw@h' {LOOK_LIKE}"),
    ('["https://*"]', f"'https://*' {LOOK_LIKE}"),
    ('["https://*.10.0.0.1"]', f"'https://*.10.0.0.1' {LOOK_LIKE}"),
    ('["file://srv"]', "'file://srv' must look like 'file:///srv/data'"),
]


@pytest.mark.parametrize(("value", "what"), ALLOW)
def test_an_origin_that_is_none_is_one_line(configured, value, what):
    path = configured(f"[catalog]\n{BASE['catalog']}\n[upstream]\nallow = {value}")
    assert mistakes(path) == [f"{path}: [upstream] allow: {what}"]


CATALOG = [
    ("", "kind: is required"),
    ('path = "x"', "kind: is required"),
    ('kind = "database"', "kind: must be one of 'file', 'template'"),
    ("kind = 1", "kind: must be one of 'file', 'template'"),
    ('kind = "file"', "path: is required"),
    ('kind = "file"\npath = 1', "path: must be a path"),
    ('kind = "file"\npath = "x"\nurl = "y"', "url: is not a setting of kind 'file'"),
    ('kind = "template"', "url: is required"),
    ('kind = "template"\nurl = "https://h"', "url: must contain {id}"),
    (
        'kind = "template"\nurl = "https://{id}/a"',
        "url: must look like 'https://files.example.com/{id}' or 'file:///srv/data/{id}'",
    ),
]


@pytest.mark.parametrize(("text", "line"), CATALOG)
def test_a_catalog_that_is_none_is_one_line(configured, text, line):
    path = configured(f"[catalog]\n{text}\n[upstream]\n{BASE['upstream']}")
    assert mistakes(path) == [f"{path}: [catalog] {line}"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["[catalog]: is required", "[upstream]: is required"]),
        (
            "catalog = 1\nserver = []\nupstream = 'x'\n[[limits]]",
            [
                "[server]: must be a section",
                "[catalog]: must be a section",
                "[upstream]: must be a section",
                "[limits]: must be a section",
            ],
        ),
        (
            f"port = 1\n[catalog]\n{BASE['catalog']}\n[upstream]\n{BASE['upstream']}\n[loging]",
            ["[port]: is not a section", "[loging]: is not a section"],
        ),
    ],
)
def test_a_section_that_is_none_is_one_line(configured, text, lines):
    path = configured(text)
    assert sorted(mistakes(path)) == sorted(f"{path}: {line}" for line in lines)


def test_all_mistakes_are_told_at_once(configured, monkeypatch):
    path = configured(server="port = 65536\nhost = 1", log='level = "x"')
    monkeypatch.setenv("TARSTREAM_LIMITS__MAX_MEMBERS", "0")
    monkeypatch.setenv("TARSTREAM_LIMIT__MAX_MEMBERS", "1")
    assert sorted(mistakes(path)) == sorted(
        [
            f"{path}: [server] port: must be at most 65535",
            f"{path}: [server] host: must be a string",
            f"{path}: [log] level: must be 'debug', 'info', 'warning' or 'error'",
            "TARSTREAM_LIMITS__MAX_MEMBERS: must be at least 1",
            "TARSTREAM_LIMIT__MAX_MEMBERS: is not a setting",
        ]
    )


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("TARSTREAM_SERVER__PORT", "web", "must be a whole number"),
        ("TARSTREAM_SERVER__PORT", "", "must be a whole number"),
        ("TARSTREAM_SERVER__PORT", "{", "must be a whole number"),
        ("TARSTREAM_SERVER__PORT", "65536", "must be at most 65535"),
        ("TARSTREAM_SERVER__HOST", "", "must not be empty"),
        ("TARSTREAM_SERVER__PUBLIC", "perhaps", "must be true or false"),
        ("TARSTREAM_LOG__LEVEL", "trace", "must be 'debug', 'info', 'warning' or 'error'"),
        ("TARSTREAM_CATALOG__KIND", "database", "must be one of 'file', 'template'"),
        ("TARSTREAM_CATALOG__PATH", "x", "is not a setting"),
        ("TARSTREAM_CATALOG__NAME", "x", "must contain {id}"),
        # Lists.
        ("TARSTREAM_UPSTREAM__ALLOW", "", "must not be empty"),
        ("TARSTREAM_UPSTREAM__ALLOW", "h", f"'h' {LOOK_LIKE}"),
        ("TARSTREAM_UPSTREAM__ALLOW", "[1]", "must be a list of strings"),
        ("TARSTREAM_UPSTREAM__ALLOW", "[null]", "must be a list of strings"),
        *(
            (
                "TARSTREAM_UPSTREAM__ALLOW",
                value,
                "must be a JSON list, or values with commas between them",
            )
            for value in ("[", '["https://h"', "['https://h']", '["https://h"],', "[" * 100_000)
        ),
        # No settings.
        ("TARSTREAM_SERVER__PROT", "1", "is not a setting"),
        ("TARSTREAM_SERVR__PORT", "1", "is not a setting"),
        ("TARSTREAM_CATALOG__PFAD", "x", "is not a setting"),
        ("TARSTREAM_SERVER__HOST__NAME", "x", "is not a setting"),
        ("TARSTREAM_SERVER__", "1", "is not a setting"),
        ("TARSTREAM_SERVER", "1", "is not a setting"),
        ("TARSTREAM_SERVER", "{", "is not a setting"),
        ("TARSTREAM_CATALOG", "{", "is not a setting"),
        ("TARSTREAM_CATALOG", '{"kind": "file", "path": "x"}', "is not a setting"),
    ],
)
def test_a_mistake_in_the_environment_is_one_line_that_names_the_variable(
    configured, monkeypatch, name, value, what
):
    monkeypatch.setenv(name, value)
    assert mistakes(configured(server="port = 1")) == [f"{name}: {what}"]


def test_a_kind_from_the_environment_does_not_take_the_keys_of_another(configured, monkeypatch):
    path = configured()
    monkeypatch.setenv("TARSTREAM_CATALOG__KIND", "file")
    monkeypatch.setenv("TARSTREAM_CATALOG__PATH", "x")
    assert mistakes(path) == [f"{path}: [catalog] url: is not a setting of kind 'file'"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"[server", "Expected ']' at the end of a table declaration"),
        (b"port = ", "Invalid value"),
        (b"port = 1\nport = 2", "Cannot overwrite a value"),
        (b"[server]\n[server]", "Cannot declare"),
        (b"host = '\xff'", "'utf-8' codec can't decode byte 0xff in position 8"),
        (b"\xef\xbb\xbf[server]", "Invalid statement"),
        (b"port = " + b"1" * 5000, "Exceeds the limit"),
        (b"port = " + b"[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_file_that_is_no_toml_is_one_line(configured, data, what):
    path = configured(data)
    (line,) = mistakes(path)
    assert line.startswith(f"{path}: not valid TOML: {what}")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "what"), [("nowhere.toml", "no such file or directory"), (".", "is a directory")]
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, what):
    path = tmp_path / name
    assert mistakes(path) == [f"{path}: {what}"]


# As a process.


def run(directory, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, str(ROOT / "server.py"), *arguments],
        check=False,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def a_wrong_key(directory):
    text = f"[catalog]\n{BASE['catalog']}\n[upstream]\n{BASE['upstream']}\n"
    (directory / "config.toml").write_text(text + "[limits]\nmax_members = 0\n")
    return "config.toml: [limits] max_members: must be at least 1\n"


def no_file(directory):
    return "config.toml: no such file or directory\n"


def no_toml(directory):
    (directory / "config.toml").write_text("[server")
    return (
        "config.toml: not valid TOML: Expected ']' at the end of a table declaration "
        "(at end of document)\n"
    )


def no_catalog(directory):
    text = f'[catalog]\nkind = "file"\npath = "catalog.jsonl"\n[upstream]\n{BASE["upstream"]}\n'
    (directory / "config.toml").write_text(text)
    return "catalog.jsonl: no such file or directory\n"


def a_wrong_catalog(directory):
    no_catalog(directory)
    entries = [{"id": "a", "url": "https://h/a"}, {"id": "b", "url": "https://h/b", "size": -1}]
    write_catalog(directory / "catalog.jsonl", entries)
    return "catalog.jsonl:2: 'size' must be a whole number, not negative and less than 2**62\n"


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "serve"])
@pytest.mark.parametrize("wrong", [a_wrong_key, no_file, no_toml, no_catalog, a_wrong_catalog])
def test_a_mistake_is_one_line_and_status_2(tmp_path, wrong, check):
    line = wrong(tmp_path)
    assert run(tmp_path, "--config", "config.toml", *check) == (2, "", line)


def test_a_mistake_in_the_environment_is_status_2_as_well():
    status, _, said = run(
        ROOT, "--config", "config.toml", "--check", TARSTREAM_SERVER__PORT="web", TARSTREAM_A__B=""
    )
    assert status == 2
    assert said.splitlines() == [
        "TARSTREAM_A__B: is not a setting",
        "TARSTREAM_SERVER__PORT: must be a whole number",
    ]


def test_what_is_right_is_status_0():
    assert run(ROOT, "--config", "config.toml", "--check") == (0, "config.toml: ok\n", "")


# The example has every setting with its default.


def test_the_example_holds_every_setting_with_its_default():
    written = tomllib.loads(EXAMPLE.read_text())
    settings = load(EXAMPLE)
    assert written.keys() == Settings.model_fields.keys()
    for section, model in sections():
        if kind_of(model) not in {None, written["catalog"]["kind"]}:
            continue
        assert written[section].keys() == model.model_fields.keys()
        for key, field in model.model_fields.items():
            if not field.is_required():
                assert getattr(getattr(settings, section), key) == field.default, (section, key)


def test_the_example_explains_every_setting():
    lines = EXAMPLE.read_text().splitlines()
    for previous, line in pairwise(lines):
        if re.match(r"\w+ = ", line) and "kind" not in line and not line.startswith("url"):
            assert " # " in line or previous.startswith("# "), line


def test_the_other_kinds_of_catalog_in_the_example_are_commented_and_right(tmp_path):
    text = EXAMPLE.read_text()
    path = tmp_path / "config.toml"
    before, catalog, after = re.split(r"(?s)(?<=\[catalog\]\n)(.*?\n)(?=\[)", text)
    kinds = re.findall(r'(?m)^(?:# )?kind = "(\w+)"', catalog)
    assert sorted(kinds) == sorted(CATALOGS)
    blocks = re.findall(r"(?m)^# (kind = .*\n(?:# \w+ = .*\n)*)", catalog)
    assert len(blocks) == len(CATALOGS) - 1
    for block in blocks:
        path.write_text(before + block.replace("\n# ", "\n") + after)
        assert load(path).catalog.kind in block


# The reference has every setting, and no other.


def documented():
    """(section, kind, key) to (values, default, variable) of each row."""
    section = kind = None
    rows = {}
    for line in REFERENCE.read_text().splitlines():
        if heading := re.fullmatch(r"## `\[(\w+)\]`", line):
            section, kind = heading[1], None
        elif heading := re.fullmatch(r'### kind = "(\w+)"', line):
            kind = heading[1]
        elif line.startswith("| `") and line.count(" | ") == 4:
            key, values, default, meaning, name = line.strip("| ").split(" | ")
            assert meaning.endswith((".", ".)")), line
            assert values, line
            assert (section, kind, key) not in rows
            rows[section, kind, key.strip("`")] = (default, name.strip("`"))
    return rows


def test_the_reference_has_every_setting_and_no_other():
    settings = [
        (section, kind_of(model), key)
        for section, model in sections()
        for key in model.model_fields
    ]
    assert list(documented()) == settings


@pytest.mark.parametrize(("section", "model", "key"), SETTINGS)
def test_the_reference_has_the_default_and_the_variable(section, model, key):
    default, name = documented()[section, kind_of(model), key]
    field = model.model_fields[key]
    assert name == variable(section, key)
    if field.is_required():
        assert default == "required"
    else:
        written = tomllib.loads(f"value = {default.strip('`')}")["value"]
        assert TypeAdapter(field.annotation).validate_python(written) == field.default


def test_the_reference_has_every_key_of_a_catalogs_line():
    text = REFERENCE.read_text()
    table = text[text.index("| key | value | |") : text.index("An entry that lacks")]
    keys = {"id", *file._KEYS, *file._COLLECTION}
    assert set(re.findall(r"(?m)^\| `(\w+)` ", table)) == keys


@pytest.mark.parametrize("document", [REFERENCE, ROOT / "README.md"], ids=lambda path: path.name)
def test_the_lines_of_a_catalog_that_are_shown_are_taken(document):
    shown = re.findall(r"(?ms)^```json\n(.*?)^```", document.read_text())
    found = dict(file.parse_line(line.encode()) for block in shown for line in block.splitlines())
    sources = [entry.source for entries in found.values() for entry in entries]
    assert any(isinstance(source, str) for source in sources)
    assert any(source for source in sources if isinstance(source, bytes))
    assert b"" in sources
    assert any(len(entries) > 1 for entries in found.values())


def test_the_reference_shows_messages_that_exist(tmp_path):
    shown = REFERENCE.read_text()
    assert a_wrong_key(tmp_path).strip() in shown
    assert a_wrong_catalog(tmp_path).strip().partition(":2: ")[2] in shown
