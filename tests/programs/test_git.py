"""git: its own checks of what it has stored, and trees compared with where they came from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import need
from tests.programs.places import PROGRAM, also, run

pytestmark = PROGRAM

COMMITS = 400
OURS = Path(__file__).parents[2]

ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "C",
    "GIT_COMMITTER_EMAIL": "c@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "protocol.file.allow",  # a submodule may be a directory
    "GIT_CONFIG_VALUE_0": "always",
    "GIT_CONFIG_KEY_1": "safe.directory",
    "GIT_CONFIG_VALUE_1": "*",
}


def git(directory: Path, *arguments: str | Path) -> str:
    return run("git", *arguments, cwd=directory, env=ENVIRONMENT)


def history() -> Iterator[str]:
    """Commits to main and to branches that are merged, some of them tagged (git-fast-import(1))."""
    for number in range(1, COMMITS + 1):
        who = f"A U Thor <author@example.org> {1_000_000_000 + number} +0000"
        branch = "main" if number % 20 < 10 else f"branch-{number // 20}"
        yield f"commit refs/heads/{branch}\nmark :{number}\ncommitter {who}\ndata 1\n.\n"
        if number % 20 == 10:
            yield f"from :{number - 1}\n"
        if number % 20 == 0:
            yield f"merge :{number - 1}\n"
        text = f"line of {number}\n" * number
        mode = "100755" if number % 3 else "100644"
        yield f'M {mode} inline "folder {number % 13}/file {number % 101}"\n'
        yield f"data {len(text)}\n{text}\n"
        if number % 50 == 0:
            yield f"tag v{number}\nfrom :{number}\ntagger {who}\ndata 1\n.\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with history, of packs and loose objects, and a submodule."""
    need("git")
    directory = tmp_path_factory.mktemp("git")
    whole, part, stream = directory / "whole", directory / "part", directory / "stream"
    stream.write_text("".join(history()))
    for made in (part, whole):
        git(directory, "init", "-q", "-b", "main", made)
        run("sh", "-c", 'git fast-import --quiet < "$0"', stream, cwd=made)
        git(made, "reset", "-q", "--hard")
    git(whole, "submodule", "add", "-q", part, "sub")
    git(whole, "commit", "-q", "-m", "a submodule")
    return whole


def check(clone: Path, *, of: Path) -> None:
    """A clone is sound and has what the original has."""
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "rev-parse", "HEAD") == git(of, "rev-parse", "HEAD")
    run("diff", "-r", "--no-dereference", "--exclude=.git", clone, of)


@also("mem-writeback", "mem-isolated", "null-threads")
def test_a_clone(place: Path, repository: Path) -> None:
    clone = place / "clone"
    git(place, "clone", "-q", "--no-local", "--recurse-submodules", repository, clone)
    check(clone, of=repository)
    objects = git(clone, "rev-list", "--all", "--objects", "--reverse")

    for where in ("v50", "origin/branch-12", "HEAD~40", "main"):
        git(clone, "checkout", "-q", "--recurse-submodules", where)
        assert git(clone, "status", "--porcelain", "--untracked-files=no") == ""
    git(clone, "gc", "-q", "--aggressive", "--prune=now")
    assert git(clone, "rev-list", "--all", "--objects", "--reverse") == objects
    check(clone, of=repository)


def test_work(place: Path, repository: Path) -> None:
    """Commits, rebase, stash, worktrees, and a clone beside it by hard links."""
    work = place / "work"
    git(place, "clone", "-q", "--recurse-submodules", repository, work)
    git(work, "checkout", "-q", "-b", "topic", "main~1")
    for number in range(5):
        (work / f"new-{number}").write_text(f"{number}\n" * 1000)
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", f"new-{number}")
    (work / "new-4").write_text("changed\n")
    git(work, "stash")
    git(work, "rebase", "-q", "main")
    git(work, "stash", "pop", "-q")
    assert git(work, "status", "--porcelain") == " M new-4\n"
    git(work, "worktree", "add", "-q", "../tree", "v50")
    git(place / "tree", "commit", "-q", "--allow-empty", "-m", "elsewhere")
    git(work, "worktree", "remove", "../tree")
    git(work, "commit", "-q", "-a", "-m", "the last one")
    git(place, "clone", "-q", "--recurse-submodules", work, "clone")
    packs = list(place.glob("clone/.git/objects/pack/*.pack"))
    assert packs
    assert all(pack.stat().st_nlink == 2 for pack in packs)
    check(place / "clone", of=work)


def test_our_own_repository(place: Path) -> None:
    need("git")
    if not (OURS / ".git").exists():
        pytest.skip("this is no checkout of a git repository")
    git(place, "clone", "-q", "--no-local", OURS, "clone")
    clone = place / "clone"
    git(clone, "fsck", "--full", "--strict")
    git(clone, "gc", "-q", "--aggressive", "--prune=now")
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
