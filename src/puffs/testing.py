"""For the tests of file servers: the pytest fixture `puffs_mount`, and `conformance`.

Installing puffs registers the fixture with pytest; nothing needs to be imported.

    def test_hello(puffs_mount):
        path = puffs_mount(HelloFS)
        assert (path / "hello.txt").read_text() == "Hello!\\n"

The file system is mounted for one test and served by a child process, so a test may use it like any
other, and may hang it, kill it or fail: it is always taken away, and a test that leaves something
behind fails. Where nothing can be mounted the test is skipped, with the reason; with
PUFFS_REQUIRE_FUSE=1 in the environment it fails.

What `puffs check` looks for, as tests of your own:

    from puffs.testing import conformance

    TestMine = conformance(MyFS)
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

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


def conformance(
    make: Callable[[], Any],
    *,
    only: Iterable[str] = (),
    mounted: bool = True,
    in_process: bool = True,
    options: str = "",
    isolate: bool = False,
    seconds: float = 10.0,
) -> type:
    """A class of tests: every check of `puffs check`, for the file server that `make` makes.

    Give it a name that pytest collects. A group of checks is a method, and each check a test of its
    own in both ways of use, so that they can be selected::

        TestMine = conformance(MyFS)

        pytest -k "TestMine and rename and mounted"
        pytest "test_mine.py::TestMine::test_rename[mounted-rename-replaces-target]"

    What needs operations that the file server does not implement is skipped, with the reason; so is
    what is mounted where nothing can be, unless PUFFS_REQUIRE_FUSE=1 is in the environment. A check
    that fails tells its rule, what happened instead, and what the file server wrote meanwhile. No
    file server can hang, loop or end the tests.

    Args:
        make: the class of the file server, or a function that makes one; called in a child process,
            once for each way of use and again whenever it has died.
        only: names of checks or of their groups, as `puffs check --only`; all when empty.
        mounted, in_process: the ways of use.
        options: mount options, as after ``-o``.
        isolate: run the file server in a process of its own, as ``puffs mount --isolate``.
        seconds: how long one check may take; half of it may be CPU time.

    Raises:
        ValueError: there is no check and no group of that name.
    """
    from puffs.check.suite import suite

    return suite(
        make,
        only=only,
        mounted=mounted,
        in_process=in_process,
        options=options,
        isolate=isolate,
        seconds=seconds,
    )
