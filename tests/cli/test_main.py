"""`puffs.main`: a script of a few lines is a command like mount(8)."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import puffs
from puffs.attach.fuse.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, umount2
from tests.cli.commands import SECONDS, all_end, mounted, processes, run, serving, succeeds

README = Path(__file__).parents[2] / "README.md"

SCRIPT = '''
"""What the script says of itself."""
import errno
import stat
import sys

import puffs


class Hello(puffs.FileSystem[str]):
    """Says hello in one file: 100% of what it can."""

    name = "greeter"

    def __init__(self, text: bytes = b"hello\\n") -> None:
        self.text = text

    def mount(self) -> str:
        return "/"

    def lookup(self, dir: str, name: str, cred: puffs.Cred) -> str:
        if name == "mistake":
            raise ValueError("a mistake of the author")
        if name != "hello":
            raise FileNotFoundError
        return name

    def getattr(self, node: str, file: object = None) -> puffs.Attr:
        if node == "/":
            return puffs.Attr(stat.S_IFDIR | 0o755, nlink=2)
        return puffs.Attr(stat.S_IFREG | 0o644, size=len(self.text))

    def readdir(self, dir: str, offset: int, file: object) -> list[str]:
        return ["hello"]

    def read(self, node: str, offset: int, size: int, file: object) -> bytes:
        return self.text[offset : offset + size]


def make() -> Hello:
    """Makes a file server."""
    return Hello(b"made\\n")


if __name__ == "__main__":
    puffs.main(WHAT)
'''


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on; whatever is still mounted there after the test is taken away."""
    path = tmp_path.resolve() / "mnt"
    path.mkdir()
    yield path
    while mounted(path):
        umount2(str(path), MNT_DETACH | UMOUNT_NOFOLLOW)


def script(mnt: Path, what: str = "Hello", before: str = "") -> list[str]:
    """The command that runs a script which calls `main` for `what`."""
    path = mnt.parent / "hello.py"
    path.write_text(SCRIPT.replace("    puffs.main(WHAT)", f"    {before}\n    puffs.main({what})"))
    return [sys.executable, str(path)]


@pytest.mark.fuse
def test_the_first_example_of_the_readme(mnt: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    (mnt.parent / "hello.py").write_text(example[1])
    assert succeeds(sys.executable, mnt.parent / "hello.py", mnt) == ""
    listing = succeeds("ls", "-l", mnt)
    assert re.search(r"^dr-xr-xr-x .* clock$", listing, re.MULTILINE)
    assert re.search(r"^-r--r--r-- .* 7 .* hello.txt$", listing, re.MULTILINE)
    assert succeeds("cat", mnt / "hello.txt") == "Hello!\n"
    assert re.fullmatch(r"\w+ \w+ .* \d\d\d\d\n", succeeds("cat", mnt / "clock/now"))
    found = succeeds("find", mnt, "-type", "f").split()
    assert sorted(found) == [f"{mnt}/clock/now", f"{mnt}/hello.txt"]
    with all_end(mnt) as servers:
        assert servers
        succeeds("umount", mnt)
    assert processes(mnt) == {}


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("what", "text"),
    [("Hello", "hello\n"), ("Hello(b'instance\\n')", "instance\n"), ("make", "made\n")],
    ids=["class", "instance", "factory"],
)
def test_takes_a_class_an_instance_or_a_factory(mnt: Path, what: str, text: str) -> None:
    assert succeeds(*script(mnt, what), mnt) == ""
    assert mounted(mnt) == ["fuse.puffs.greeter puffs:greeter"]
    assert succeeds("cat", mnt / "hello") == text
    with all_end(mnt):
        succeeds("umount", mnt)


@pytest.mark.fuse
def test_serves_in_the_foreground_until_it_is_told_to_end(mnt: Path) -> None:
    command = [*script(mnt), "--foreground", "-o", "noexec", "-o", "fsname=x", str(mnt)]
    with serving(*command, mountpoint=mnt) as server, all_end(mnt):
        assert mounted(mnt) == ["fuse.puffs.greeter x"]
        assert succeeds("cat", mnt / "hello") == "hello\n"
        server.send_signal(signal.SIGTERM)
        output, complaints = server.communicate(timeout=SECONDS)
    assert (server.returncode, output, complaints) == (0, "", "")
    assert mounted(mnt) == []
    assert processes(mnt) == {}


@pytest.mark.fuse
@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
@pytest.mark.parametrize(
    ("what", "arguments", "says"),
    [
        ("Hello", ["gone"], "gone does not exist: make it first"),
        ("Hello", ["mnt", "-o", "allow_othr"], "unknown mount option 'allow_othr'"),
        ("lambda: open('/no/such/data')", ["mnt"], "/no/such/data: No such file or directory"),
        ("puffs.FileSystem", ["mnt"], "FileSystem lacks mount, lookup, getattr"),
        ("lambda: Hello(1, 2)", ["mnt"], "takes from 1 to 2 positional arguments but 3 were given"),
    ],
)
def test_says_in_a_line_why_it_cannot_be_mounted(
    mnt: Path, what: str, arguments: list[str], says: str, foreground: list[str]
) -> None:
    done = run(*script(mnt, what), *foreground, *arguments, cwd=mnt.parent)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"hello\.py: .*{re.escape(says)}.*\n", done.stderr), done.stderr
    assert mounted(mnt) == []


def test_a_command_line_that_makes_no_sense(mnt: Path) -> None:
    for arguments in ([], ["--frobnicate", "mnt"], ["mnt", "mnt"]):
        done = run(*script(mnt), *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: hello.py [-h] [-f] [-o OPTIONS] ")


@pytest.mark.parametrize(
    ("what", "about"),
    [
        ("Hello", "Says hello in one file: 100% of what it can."),
        ("Hello()", "Says hello in one file: 100% of what it can."),
        ("make", "Makes a file server."),
        ("puffs.Tree({})", "What the script says of itself."),
    ],
)
def test_help_is_what_the_author_wrote_and_the_options(mnt: Path, what: str, about: str) -> None:
    text = succeeds(*script(mnt, what), "--help")
    assert text.split("\n\n")[1] == about
    assert re.search(r"^ +-o OPTIONS +mount options", text, re.MULTILINE)
    assert re.search(r"^ +max_read=BYTES +largest read request", text, re.MULTILINE)


def test_takes_arguments_from_the_program_and_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        puffs.main(puffs.Tree({}), ["-f", str(tmp_path / "gone")])
    assert ended.value.code == 1
    assert "gone does not exist" in capsys.readouterr().err


# The log


def provoke(mnt: Path) -> None:
    assert "Input/output error" in run("cat", mnt / "mistake").stderr
    assert "No such file" in run("cat", mnt / "missing").stderr


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("before", "first"),
    [
        ("", "hello.py: lookup failed in the file server"),
        (
            "import logging; logging.basicConfig(format='MINE %(levelname)s %(message)s')",
            "MINE ERROR lookup failed in the file server",
        ),
    ],
    ids=["its own", "the program's"],
)
def test_logs_to_stderr_in_the_foreground_unless_told_otherwise(
    mnt: Path, before: str, first: str
) -> None:
    command = [*script(mnt, before=before), "-f", str(mnt)]
    with serving(*command, mountpoint=mnt) as server:
        provoke(mnt)
        server.terminate()
        _, log = server.communicate(timeout=SECONDS)
    assert log.startswith(first)
    assert log.count("Traceback") == 1
    assert log.endswith("ValueError: a mistake of the author\n")


@pytest.mark.fuse
def test_logs_to_syslog_in_the_background(mnt: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.settimeout(SECONDS)
        syslog.bind(str(mnt.parent / "log"))
        before = f"import puffs.attach.main as m; m.SYSLOG = {str(mnt.parent / 'log')!r}"
        assert succeeds(*script(mnt, before=before), mnt) == ""
        provoke(mnt)
        message = syslog.recv(1 << 16).decode()
        with all_end(mnt):
            succeeds("umount", mnt)
    assert re.match(r"<\d+>hello\.py\[\d+\]: lookup failed in the file server", message)
    assert "ValueError: a mistake of the author" in message


@pytest.mark.fuse
def test_serves_in_the_background_where_there_is_no_syslog(mnt: Path) -> None:
    before = "import puffs.attach.main as m; m.SYSLOG = '/nonexistent'"
    done = subprocess.run(
        [*script(mnt, before=before), str(mnt)], capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    provoke(mnt)
    assert succeeds("cat", mnt / "hello") == "hello\n"
    with all_end(mnt):
        succeeds("umount", mnt)


@pytest.mark.fuse
def test_what_is_there_when_it_is_mounted_is_looked_through_for_cycles_no_more(mnt: Path) -> None:
    tree = "puffs.Tree({'frozen': lambda: str(__import__('gc').get_freeze_count())})"
    succeeds(*script(mnt, tree), mnt)
    assert int((mnt / "frozen").read_text()) > 1000
    with all_end(mnt):
        succeeds("umount", mnt)
