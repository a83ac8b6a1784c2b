"""Readers of archives that are made, or fetched, before their first use."""

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def java_classes() -> Path:
    """The directory with `Unzip`, compiled."""
    classes = Path(tempfile.mkdtemp(prefix="tarstream-java-"))
    atexit.register(shutil.rmtree, classes)
    subprocess.run(["javac", "-d", classes, HERE / "Unzip.java"], check=True)
    return classes


@cache
def yauzl() -> Path:
    """A script that extracts by yauzl, which npm fetches once, as package-lock.json pins it."""
    installed = HERE / "node_modules" / ".package-lock.json"
    lock = HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        options = ["--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(["npm", "ci", *options], cwd=HERE, check=True, capture_output=True)
    return HERE / "unzip.js"
