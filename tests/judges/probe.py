"""REDbot on URLs, in a process of its own: a line of JSON for each."""

import json
import sys
from configparser import ConfigParser

import thor
from redbot.resource import HttpResource


def main() -> None:
    """Check one URL after the other, then write what was noted of each."""
    parser = ConfigParser()
    parser.read_dict({"redbot": {"enable_local_access": "True"}})
    waiting = sys.argv[1:]

    def check() -> None:
        if not waiting:
            thor.stop()
            return
        resource = HttpResource(parser["redbot"])
        resource.set_request(waiting.pop(0))

        @thor.events.on(resource)
        def check_done() -> None:
            tell(resource)
            check()

        resource.check()

    check()
    thor.run()


def tell(resource: HttpResource) -> None:
    """All notes: of the resource, and of what was asked besides."""
    fetches = [resource, *resource.subreqs.values()]
    notes = {
        (type(note).__name__, note.level.name, note.summary)
        for fetch in fetches
        for each in fetch.response.notes
        for note in (each, *each.subnotes)
    }
    errors = [
        f"{fetch.check_id}: {fetch.fetch_error.desc}" for fetch in fetches if fetch.fetch_error
    ]
    sys.stdout.write(json.dumps({"notes": sorted(notes), "errors": errors}) + "\n")


if __name__ == "__main__":
    main()
