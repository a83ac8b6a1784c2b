"""varnishtest as a bad origin and as a picky client: a judge that is not ours.

The scripts are tests/judges/vtc/*.vtc; the first line of each states its rule.
"""

import pytest
from judges.scripts import SCRIPTS, stage


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    with stage(tmp_path_factory.mktemp("varnishtest")) as stage_:
        yield stage_


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script(play, script):
    said = play.run(script)
    assert not said, said


@pytest.mark.parametrize("path", ["direct", "recommended", "defaults"])
def test_facts_about_range_and_conditions(play, path, tmp_path):
    """Through nginx with deploy/nginx.conf and with its defaults as well."""
    gateway = {} if path == "direct" else {"gateway": f"127.0.0.1 {play.proxies[path]}"}
    said = play.run(play.facts(tmp_path / "facts.vtc"), **gateway)
    assert not said, said
