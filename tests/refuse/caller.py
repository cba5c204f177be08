"""The process that makes the calls of cases on a mount: `python -m tests.refuse.caller`.

It is given a JSON object on the command line, and writes a JSON object for each case, a line each.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from tests.refuse.saying import CASES, Place, Say

for _module in (  # the order of cases is theirs
    "answers",
    "attributes",
    "data",
    "directories",
    "locks",
    "mounts",
    "names",
    "small",
    "devices",
    "telling",
):
    importlib.import_module(f"tests.refuse.cases.{_module}")
importlib.import_module("tests.refuse.cases.xattrs")

OWN_DIRECTORY = ("tree", "users", "acls")
"""Sections whose cases have a directory of their own; the others use what the server has."""


def main(mountpoint: str, backing: str | None, side: str | None, sections: list[str]) -> None:
    os.umask(0o022)
    mount = Path(mountpoint)
    device = mount.stat().st_dev
    os.chdir(mount)  # another user may not search what is above
    for section in sections:
        for name, function in CASES[section].items():
            if mount.stat().st_dev != device:
                sys.exit(f"the mount is gone before {name}")
            path = Path()
            if section in OWN_DIRECTORY:
                path = Path(name)
                path.mkdir()
            say = Say()
            place = Place(
                path, mount, Path(backing) if backing else None, Path(side) if side else None
            )
            try:
                function(place, say)
            except Exception:
                say.answers["the case ended with"] = traceback.format_exc().splitlines()[-1]
            print(json.dumps({f"{section}: {name}": say.answers}), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
