"""`puffs mount --isolate`, and the same of `puffs.main`: as one who has just heard of it."""

import errno
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from puffs.attach import ended, rendezvous
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from tests.cli.commands import PUFFS, SECONDS, all_end, mounted, puffs, run, serving, succeeds
from tests.needs import need

NOBODY = 65534
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")

SERVERS = '''
import os
import select
import stat
import sys
import threading
import time

import puffs


class Who(puffs.PathFileSystem):
    """One file, that says who serves it."""

    def getattr(self, path, file=None):
        if path == "/":
            return puffs.Attr(mode=stat.S_IFDIR | 0o755, nlink=2)
        if path == "/who":
            return puffs.Attr(mode=stat.S_IFREG | 0o444, size=1000)
        raise FileNotFoundError

    def readdir(self, path, offset, file):
        return ["who"]

    def read(self, path, offset, size, file):
        text = f"{os.getpid()} {os.geteuid()} {os.getcwd()}\\n"
        return text.encode()[offset : offset + size]

    def getxattr(self, path, name):
        match name:
            case "user.print":
                print("printed by", os.getpid())
            case "user.hoard":
                return bytes(1 << 40)
            case "user.spin":
                while True:
                    pass
            case "user.hang":
                threading.Event().wait()
            case "user.end":
                os._exit(7)
        return b"done"


class Impatient(Who):
    """It has been built when it dies: at once, or as soon as something is mounted."""

    def __init__(self, mountpoint: str = "") -> None:
        self.mountpoint = mountpoint

    def getattr(self, path, file=None):
        threading.Thread(target=self.end).start()
        return super().getattr(path, file)

    def end(self):
        with open("/proc/self/mountinfo") as table:
            changes = select.poll()
            changes.register(table, select.POLLPRI)
            while self.mountpoint not in table.read():
                changes.poll()
                table.seek(0)
        os._exit(5)


if __name__ == "__main__":
    puffs.main(Who)
'''
EXITS = "print('what it prints'); raise SystemExit('and ends')"
LARGE = "hoard = bytes(1 << 40)"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can enter, with a mount point and modules."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="puffs-tests-") as name:
        path = Path(name).resolve()
        path.chmod(0o755)
        (path / "mnt").mkdir()
        for module, text in (("servers", SERVERS), ("exits", EXITS), ("large", LARGE)):
            (path / f"{module}.py").write_text(text)
        yield path
        while mounted(path / "mnt"):
            umount2(str(path / "mnt"), MNT_DETACH | UMOUNT_NOFOLLOW)
        with rendezvous.opened(rendezvous.made(rendezvous.own_directory())) as directory:
            ended.forget(directory, str(path / "mnt"))


@pytest.fixture
def mnt(place: Path) -> Path:
    return place / "mnt"


def status(mnt: Path) -> dict[str, object]:
    done = puffs("status", "--json", mnt)
    told: dict[str, object] = json.loads(done.stdout)
    assert done.returncode == (0 if told["state"] == "running" else 1)
    return told


def wait_until_gone(mnt: Path) -> None:
    with open("/proc/self/mountinfo") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        while mounted(mnt):
            assert changes.poll(SECONDS * 1000), f"{mnt} is still mounted"
            table.seek(0)
            table.read()


def xattr(mnt: Path, name: str) -> "subprocess.CompletedProcess[str]":
    """Ask for an extended attribute, from a process that may be kept waiting."""
    return run(sys.executable, "-c", f"import os; os.getxattr({str(mnt / 'who')!r}, 'user.{name}')")


# ---------------------------------------------------------------------------------- it is isolated


@pytest.mark.fuse
def test_a_class_in_a_file_runs_as_somebody_else(place: Path, mnt: Path) -> None:
    command = [*PUFFS, "mount", "--isolate", "--user", "nobody", "./servers.py:Who", "mnt"]
    assert succeeds(*command, cwd=place) == ""
    pid, uid, directory = succeeds("cat", mnt / "who").split()
    told = status(mnt)
    assert (told["state"], told["server_pid"]) == ("running", int(pid))
    assert told["pid"] != told["server_pid"]
    assert (uid, directory) == (str(NOBODY), "/")
    assert re.search(rf"^server pid +{pid}$", succeeds(*PUFFS, "status", mnt), re.M)
    with all_end(mnt):
        succeeds(*PUFFS, "umount", mnt)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.fuse
def test_a_directory_is_passed_through_with_the_rights_of_somebody_else(
    place: Path, mnt: Path
) -> None:
    (place / "data").mkdir()
    shutil.chown(place / "data", NOBODY, NOBODY)
    (place / "data/public").write_text("for all")
    (place / "data/secret").write_text("for root")
    (place / "data/secret").chmod(0o600)
    spec = f"null:{place}/data"
    with serving(
        *PUFFS, "mount", "-f", "--isolate", "--user", "nobody", spec, mnt, mountpoint=mnt
    ) as server:
        assert succeeds("cat", mnt / "public") == "for all"
        assert "Permission denied" in run("cat", mnt / "secret").stderr
        succeeds("sh", "-c", f"echo new > {mnt}/new")
        assert (place / "data/new").stat().st_uid == NOBODY
        server.terminate()
        assert server.communicate(timeout=SECONDS) == ("", "")
        assert server.returncode == 0
    assert status_line(mnt) == f"puffs: {mnt} is not mounted: see `puffs list`\n"


def status_line(mnt: Path) -> str:
    done = puffs("status", mnt)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.fuse
def test_what_it_prints_is_logged(place: Path, mnt: Path) -> None:
    spec = f"{place}/servers.py:Who"
    with serving(*PUFFS, "mount", "-f", "--isolate", spec, mnt, mountpoint=mnt) as server:
        assert xattr(mnt, "print").returncode == 0
        pid = status(mnt)["server_pid"]
        server.terminate()
        _, log = server.communicate(timeout=SECONDS)
    assert log == f"puffs: printed by {pid}\n"


@pytest.mark.fuse
def test_in_the_background_syslog_hears_of_what_it_prints_and_of_its_end(
    place: Path, mnt: Path
) -> None:
    script = place / "servers.py"
    patch = f"    import puffs.attach.main as m; m.SYSLOG = {str(place / 'log')!r}\n"
    script.write_text(SERVERS.replace("    puffs.main(", f"{patch}    puffs.main("))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.settimeout(SECONDS)
        syslog.bind(str(place / "log"))
        assert succeeds(sys.executable, script, "--isolate", mnt) == ""
        pid = status(mnt)["server_pid"]
        assert xattr(mnt, "print").returncode == 0
        printed = syslog.recv(1 << 16).decode()
        with all_end(mnt):
            xattr(mnt, "end")
            wait_until_gone(mnt)
        death = syslog.recv(1 << 16).decode()
    assert re.match(rf"<\d+>servers\.py\[\d+\]: printed by {pid}", printed)
    how = rf"{mnt}: the file server \(process {pid}\) ended with status 7"
    assert re.match(rf"<\d+>servers\.py\[\d+\]: {how}\W?$", death), death


# ------------------------------------------------------------------------------------------- death


@pytest.mark.fuse
def test_after_its_death_the_mount_is_gone_and_status_tells_why(place: Path, mnt: Path) -> None:
    succeeds(*PUFFS, "mount", "--isolate", f"{place}/servers.py:Who", mnt)
    pid = status(mnt)["server_pid"]
    assert isinstance(pid, int)
    why = f"the file server (process {pid}) was killed by SIGKILL (Killed)"
    with all_end(mnt):
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(mnt)
    assert succeeds("ls", mnt) == "", "nobody is kept waiting"
    told = status(mnt)
    assert (told["state"], told["why"], told["name"]) == ("ended", why, "who")
    assert (told["mountpoint"], told["pid"], told["server_pid"]) == (str(mnt), None, None)
    done = puffs("status", "mnt", cwd=place)
    assert done.returncode == 1
    assert re.search(rf"^why +{re.escape(why)}$", done.stdout, re.MULTILINE)
    assert re.search(r"^ended +20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d", done.stdout, re.MULTILINE)

    succeeds(*PUFFS, "mount", "mem:", mnt)
    assert status(mnt)["state"] == "running"
    with all_end(mnt):
        succeeds(*PUFFS, "umount", mnt)
    assert "is not mounted" in status_line(mnt), "that is not how the last one has ended"


@pytest.mark.fuse
def test_without_control_socket_there_is_no_record_either(place: Path, mnt: Path) -> None:
    command = [*PUFFS, "mount", "-f", "-o", "nocontrol", "--isolate", f"{place}/servers.py:Who"]
    with serving(*command, mnt, mountpoint=mnt) as server:
        xattr(mnt, "end")
        assert server.wait(SECONDS) == 1
    assert "is not mounted" in status_line(mnt)


ENDS = {
    "by itself": ("end", [], r"ended with status 7"),
    "time": ("spin", ["--cpu", "1"], r"used up its processor time"),
    "hanging": ("hang", ["--timeout", "1s"], r"has not answered anything for 1 seconds, and .*"),
}


@pytest.mark.fuse
@pytest.mark.parametrize(("how", "limits", "says"), ENDS.values(), ids=ENDS)
def test_in_the_foreground_one_line_says_how_it_has_died(
    place: Path, mnt: Path, how: str, limits: list[str], says: str
) -> None:
    command = [*PUFFS, "mount", "-f", "--isolate", *limits, f"{place}/servers.py:Who", str(mnt)]
    with serving(*command, mountpoint=mnt) as server:
        wanted = errno.ETIMEDOUT if how == "hang" else errno.ENXIO
        assert os.strerror(wanted) in xattr(mnt, how).stderr
        output, log = server.communicate(timeout=SECONDS)
    assert (server.returncode, output) == (1, "")
    last = log.splitlines()[-1]
    assert re.fullmatch(rf"puffs: {mnt}: the file server \(process \d+\) {says}", last), log
    assert how == "spin" or log.count("\n") == 1, log  # there the interpreter says where it was
    assert not mounted(mnt)


@pytest.mark.fuse
@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
@pytest.mark.parametrize("when", ["at once", "when it is mounted"])
def test_one_that_dies_while_it_is_mounted(
    place: Path, mnt: Path, when: str, foreground: list[str]
) -> None:
    spec = f"{place}/servers.py:Impatient"
    if when != "at once":
        spec += f"?mountpoint={mnt}"
    done = puffs("mount", *foreground, "--isolate", spec, mnt)
    if foreground or done.returncode:  # else it was mounted when it died
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"puffs: .*\(process \d+\) ended with status 5\n", done.stderr)
    wait_until_gone(mnt)


@pytest.mark.fuse
def test_too_much_memory_is_an_error_of_one_operation(place: Path, mnt: Path) -> None:
    command = [*PUFFS, "mount", "-f", "--isolate", "--memory", "300M", f"{place}/servers.py:Who"]
    with serving(*command, mnt, mountpoint=mnt) as server:
        assert "Cannot allocate memory" in xattr(mnt, "hoard").stderr
        assert succeeds("cat", mnt / "who")
        server.terminate()
        assert server.wait(SECONDS) == 0


# ------------------------------------------------------------------------------- what is refused

IN_VAIN = {
    "unknown": (["mme:"], "there is no file system 'mme': did you mean mem:"),
    "no such file": (["./gone.py:Who"], "there is no file .*/gone.py"),
    "no such class": (["./servers.py:Wo"], "./servers.py has no 'Wo'; did you mean Who"),
    "wrong suffix": (["./notes.txt:Who"], "notes.txt is not a Python file: .* end with .py"),
    "bad argument": (["mem:?size=much"], "mem: size=much is no number"),
    "ends": (["./exits.py:Who"], "exits.py ends the program when it is imported"),
    "too large": (
        ["--memory", "200M", "./large.py:Who"],
        "large.py cannot be imported: MemoryError",
    ),
    "too small": (["--memory", "1M", "mem:"], "1M of memory is too little: .* give it .* or more"),
    "no time": (["--cpu", "0", "mem:"], "at least one second of processor time"),
    "no such user": (["--user", "nobdy", "mem:"], "there is no user 'nobdy': give a name"),
}


@pytest.mark.fuse
@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
@pytest.mark.parametrize(("arguments", "says"), IN_VAIN.values(), ids=IN_VAIN)
def test_says_in_a_line_what_is_wrong_and_leaves_nothing(
    place: Path, mnt: Path, arguments: list[str], says: str, foreground: list[str]
) -> None:
    (place / "notes.txt").write_text("notes")
    done = puffs("mount", *foreground, "--isolate", *arguments, "mnt", cwd=place)
    assert (done.returncode, done.stdout) == (1, "")
    printed = "puffs: what it prints\n" if "./exits.py:Who" in arguments and foreground else ""
    assert done.stderr.startswith(printed)
    complaint = done.stderr.removeprefix(printed)
    assert complaint.count("\n") == 1
    assert re.match(rf"puffs: .*{says}", complaint), complaint
    assert not mounted(mnt)


@pytest.mark.fuse
def test_only_root_can_choose_a_user(place: Path) -> None:
    need("setpriv", "util-linux")
    done = run(*AS_NOBODY, *PUFFS, "mount", "--isolate", "--user", "root", "mem:", place / "mnt")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "puffs: only root may run a file server as another user (root)\n"


SENSELESS = {
    "--user without": (["--user", "nobody"], "--user: only with --isolate"),
    "several without": (["--cpu", "1", "--memory", "64M"], "--memory and --cpu: only with"),
    "no size": (["--isolate", "--memory", "64X"], "--memory needs a number of bytes"),
    "no time": (["--isolate", "--cpu", "soon"], "--cpu needs a number of seconds"),
    "no timeout": (["--isolate", "--timeout", "-1"], "--timeout needs a number of seconds"),
}


@pytest.mark.parametrize("prog", ["puffs", "servers.py"])
@pytest.mark.parametrize(("arguments", "says"), SENSELESS.values(), ids=SENSELESS)
def test_a_command_line_that_makes_no_sense(
    place: Path, arguments: list[str], says: str, prog: str
) -> None:
    command = [*PUFFS, "mount", "mem:"] if prog == "puffs" else [sys.executable, prog]
    done = run(*command, *arguments, "mnt", cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_timeout_of_nothing_is_none() -> None:
    from puffs.attach.isolating import isolation_from

    assert isolation_from(False, {}) is None
    isolation = isolation_from(True, {"timeout": "0", "memory": "2G", "cpu": "10m"})
    assert isolation is not None
    assert (isolation.timeout, isolation.memory, isolation.cpu) == (None, 2 << 30, 600)
    default = isolation_from(True, {"timeout": None})
    assert default is not None
    assert default.timeout == 120
    waits = isolation_from(True, {"timeout": "2m"})
    assert waits is not None
    assert waits.timeout == 120


@pytest.mark.parametrize("command", ["puffs", "script"])
def test_help_names_the_options(place: Path, command: str) -> None:
    program = [*PUFFS, "mount"] if command == "puffs" else [sys.executable, place / "servers.py"]
    text = succeeds(*map(str, program), "--help")
    for option in ("--isolate", "--user USER", "--memory SIZE", "--cpu TIME", "--timeout TIME"):
        assert re.search(rf"^ +{option}", text, re.MULTILINE), text
