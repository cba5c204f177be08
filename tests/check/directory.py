"""Run the battery over a directory of the host's own: `python directory.py PATH`.

In a process of its own, as checks change user and leave files. Prints what did not pass.
"""

import os
import sys

from puffs.check.registry import all_checks
from puffs.check.result import Outcome
from puffs.check.runner import why_left_out
from puffs.check.target import MountedTarget
from puffs.check.worker import verdict_of
from puffs.server.operations import OPERATIONS


def supported(path: str) -> frozenset[str]:
    """All operations, but extended attributes where this file system has none."""
    try:
        os.setxattr(path, "user.test", b"")
        os.removexattr(path, "user.test")
    except OSError:
        return frozenset(name for name in OPERATIONS if "xattr" not in name)
    return frozenset(OPERATIONS)


def main(path: str) -> None:
    """Run every check in a new directory below `path`."""
    operations = supported(path)
    passed = 0
    for check in all_checks():
        if why_left_out(check, operations):
            continue
        os.mkdir(f"{path}/{check.name}")
        verdict = verdict_of(check, MountedTarget(path, f"/{check.name}", operations))
        if verdict.outcome is Outcome.PASSED:
            passed += 1
        elif verdict.outcome is not Outcome.LEFT_OUT:
            print(f"{check.name} [{verdict.where}]: {verdict.message}")
    print(f"passed: {passed}")


if __name__ == "__main__":
    main(sys.argv[1])
