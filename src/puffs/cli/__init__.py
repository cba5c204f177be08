"""The command `puffs`. It needs click and rich: the extra `cli`."""

import sys
from importlib.util import find_spec

from puffs.streams import open_streams


def main() -> None:
    """Run the command line of this program and end it."""
    open_streams()
    if find_spec("click") is None or find_spec("rich") is None:
        text = "puffs: the command line needs click and rich: pip install 'puffs[cli]'"
        if sys.argv[1:2] == ["refuse"]:
            text += "; python -m puffs.refuse does the same without"
        sys.exit(text)
    try:
        from puffs.cli.app import app

        app.main(prog_name="puffs")
    except KeyboardInterrupt:  # before there was anything to tell of it
        sys.exit(130)
