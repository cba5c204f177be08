"""What tests need that may not be there: they are skipped with the reason, but where all tests must
run (PUFFS_REQUIRE_FUSE=1, as in CI) that is a failure.
"""

import os
import shutil
from typing import NoReturn

import pytest


def cannot(reason: str) -> NoReturn:
    """A test cannot run here."""
    if os.environ.get("PUFFS_REQUIRE_FUSE") == "1":
        pytest.fail(f"PUFFS_REQUIRE_FUSE=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def need(program: str, package: str = "") -> None:
    """A test needs `program`, which `package` has if that is called otherwise."""
    if shutil.which(program) is None:
        cannot(f"{program} is missing: install {package or program}")
