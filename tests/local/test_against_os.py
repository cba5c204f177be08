"""Every call, on every kind of path, by root and by an ordinary user: as the real `os` has it.

With page cache and without it."""

import os
import tempfile
from pathlib import Path

import pytest

from puffs.fs.mem import MemFS
from tests.local import differential

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="chroot(2) and becoming another user need root"
)


def has_user_xattrs(path: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=path) as probe:
        try:
            os.setxattr(probe.name, "user.puffs", b"")
        except OSError:
            return False
    return True


@pytest.mark.parametrize("call", differential.CALLS)
@pytest.mark.parametrize("who", ["root", "user"])
def test_as_os(who: str, call: str, tmp_path: Path) -> None:
    if call.startswith("xattr") and not has_user_xattrs(tmp_path):
        pytest.skip("the file system of the temporary directory has no user.* attributes")
    caller = {"root": differential.ROOT, "user": differential.USER}[who]
    expected = differential.real(caller, str(tmp_path), call)
    differences: dict[str, str] = {}
    for cache in (False, True):
        found = differential.in_process(caller, MemFS, call, cache)
        for path, (said, state) in expected.items():
            here, state_here = found[path]
            if call in differential.SILENT and isinstance(said, differential.Failure):
                said = said._replace(filename=path)
            if said != here:
                differences[path] = f"os: {said!r}; puffs: {here!r}; {cache=}"
            elif state != state_here:
                differences[path] = f"afterwards, os: {state!r}; puffs: {state_here!r}; {cache=}"
    assert not differences, "\n".join(
        f"{path[:40]!r}: {how}"[:400] for path, how in differences.items()
    )
