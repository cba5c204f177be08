"""What all tests share: when a test may mount, and that no run leaves a mount behind."""

import os
import signal
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.needs import cannot

CAP_SYS_ADMIN = 1 << 21  # capabilities(7)

# A shared machine may be slow for a moment; an example that is slow once is no failure.
hypothesis.settings.register_profile("puffs", deadline=None)
hypothesis.settings.load_profile("puffs")

# Who starts the tests in the background may have them ignore these signals, and with them every
# program that they start (signal(7)); they are part of what is tested.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        )


@cache
def why_not_mount() -> str | None:
    """Return why nothing can be mounted here, with the remedy, or None when it can."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse cannot be opened ({error.strerror}): try `modprobe fuse` as root"
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    if not int(effective.split()[1], 16) & CAP_SYS_ADMIN:
        return "mount(2) needs CAP_SYS_ADMIN: run the tests as root"
    return None


def puffs_mounts() -> dict[str, str]:
    """Return the mounts made by puffs: mount point to type, as proc_pid_mountinfo(5) shows them."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fstype, source = after.split(" ")[:2]
        if fstype.startswith("fuse") and (fstype + " " + source).find("puffs") >= 0:
            found[before.split(" ")[4]] = fstype
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fuse") and (reason := why_not_mount()):
        cannot(reason)


@pytest.fixture(scope="session", autouse=True)
def _run_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Send the temporary files of this run, and of every process it starts, to one directory.

    A mount below it was made by this run, and not by another one on the same machine.
    """
    base = tmp_path_factory.getbasetemp().resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(base))
        patch.setattr("tempfile.tempdir", None)
        yield
    left = [point for point in puffs_mounts() if Path(point).is_relative_to(base)]
    if left:
        pytest.fail(f"this run left mounts behind: umount -l {' '.join(left)}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Between processes reports are UTF-8; names of files, and what is said of them, may not be."""
    return _printable((yield))


def _printable(part: Any) -> Any:
    if isinstance(part, str):
        return part.encode(errors="backslashreplace").decode()
    if isinstance(part, dict):
        return {key: _printable(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(map(_printable, part))
    return part
