"""All judges from the command line: `python tests/judges --help`."""

import sys
from pathlib import Path

# This directory is a package, and what it uses lies beside it.
sys.path[0] = str(Path(__file__).parent.parent)

from judges.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
