"""borg mount, written for pyfuse3 and for llfuse: backups as directories."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.refuse.programs.served import (
    EACH_SIDE,
    SECONDS,
    TIMES,
    WITHOUT_LIBFUSE,
    Serve,
    Words,
    make_tree,
    module,
    mounted,
    on_each_side,
    program,
    same,
    seen,
)

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = make_tree(tmp_path.resolve() / "tree")
    os.setxattr(path / "hello.txt", "user.colour", b"red")
    return path


@pytest.fixture(params=["pyfuse3", "llfuse"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if WITHOUT_LIBFUSE not in os.environ:
        module(request.param)
    return {
        "BORG_FUSE_IMPL": request.param,
        "BORG_BASE_DIR": str(tmp_path / "borg"),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_REPO": str(tmp_path.resolve() / "repository"),
    }


@pytest.fixture
def repository(tree: Path, environment: dict[str, str]) -> Path:
    """A repository with two archives of that tree."""

    def borg(*words: str) -> None:
        command = [str(program("borg")), *words]
        subprocess.run(
            command, cwd=tree, env={**os.environ, **environment}, check=True, timeout=SECONDS
        )

    borg("init", "-e", "none")
    borg("create", "::first", ".")
    (tree / "hello.txt").write_text("Hello again!\n")
    borg("create", "::second", ".")
    return Path(environment["BORG_REPO"])


@pytest.mark.parametrize("what", ["::", "::second", "-o versions,uid=65534 ::"])
def test_backups_look_the_same(
    tree: Path, repository: Path, environment: dict[str, str], what: str
) -> None:
    words: Words = [program("borg"), "mount", *what.split()]
    with on_each_side(words, tree.parent, environment=environment) as mountpoints:
        for mountpoint in mountpoints:
            if what == "::":
                assert sorted(os.listdir(mountpoint)) == ["first", "second"]
                assert (mountpoint / "first/hello.txt").read_text() == "Hello!\n"
            elif what == "::second":
                same(mountpoint, tree)
                assert os.getxattr(mountpoint / "hello.txt", "user.colour") == b"red"
            same(mountpoint, mountpoints[0])
            # Directories of versions have the time of mounting.
            without = TIMES if "versions" in what else ()
            assert seen(mountpoint, *without) == seen(mountpoints[0], *without)


@pytest.mark.skipif(WITHOUT_LIBFUSE in os.environ, reason="that command runs fusermount")
@EACH_SIDE
def test_it_is_unmounted_by_its_own_command(
    tree: Path, repository: Path, environment: dict[str, str], serve: Serve
) -> None:
    mountpoint = tree.parent / "mnt"
    mountpoint.mkdir()
    words = serve([program("borg"), "mount", "-f", "::second", mountpoint])
    leave: Words = [program("borg"), "umount", mountpoint]
    with mounted(words, mountpoint, leave=leave, environment=environment):
        same(mountpoint / "directory", tree / "directory")
