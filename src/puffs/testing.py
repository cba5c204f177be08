"""For the tests of file servers: the pytest fixture `puffs_mount`.

Installing puffs registers it with pytest; nothing needs to be imported.

    def test_hello(puffs_mount):
        path = puffs_mount(HelloFS)
        assert (path / "hello.txt").read_text() == "Hello!\\n"

The file system is mounted for one test and served by a child process, so a test may use it like any
other, and may hang it, kill it or fail: it is always taken away, and a test that leaves something
behind fails. Where nothing can be mounted the test is skipped, with the reason; with
PUFFS_REQUIRE_FUSE=1 in the environment it fails.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from puffs.attach.trial import Trials as Trials


@pytest.fixture
def puffs_mount(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Trials]":
    """Mount file servers for one test: ``path = puffs_mount(MyFS, options="ro")``.

    The arguments are a file server, or better its class or a function that makes it, which is then
    called in the child process; `options` as after ``-o``; `mountpoint`, a directory of the test's
    own instead of a fresh one. Returns the mount point, a `pathlib.Path`. Several may be mounted.

    ``puffs_mount.unmount(path)`` unmounts before the end of the test, and raises when that is
    refused. ``puffs_mount.pid(path)`` is the process that serves.
    """
    from puffs.attach.trial import Trials

    trials = Trials(lambda: tmp_path_factory.mktemp("puffs"))
    try:
        yield trials
    finally:
        left = trials.end()
    if left:
        pytest.fail("\n".join(left), pytrace=False)
