"""`puffs shell`: files by commands, with nothing mounted; so none of this needs /dev/fuse."""

import fcntl
import io
import os
import pty
import select
import subprocess
import termios
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import puffs
from puffs.cli.shell import Session, split
from puffs.cli.shell_commands import COMMANDS, Files
from puffs.fs.mem import MemFS
from tests.cli.commands import PUFFS, SECONDS
from tests.cli.commands import puffs as puffs_


def shell(commands: str, input: bytes = b"") -> tuple[int, str, str]:
    """Run commands with -c: exit status, output, complaints."""
    done = subprocess.run(
        [*PUFFS, "shell", "mem:", "-c", commands],
        input=input,
        capture_output=True,
        timeout=SECONDS,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def here(commands: str) -> tuple[int, str, str]:
    """The same, in this process."""
    output, complaints = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with redirect_stdout(output), redirect_stderr(complaints), puffs.local(MemFS) as vfs:
        session = Session(Files(vfs))
        session.run(commands)
        output.flush()
        assert isinstance(output.buffer, io.BytesIO)
        return session.failed, output.buffer.getvalue().decode(), complaints.getvalue()


def prints(commands: str) -> str:
    """What commands print that have nothing to complain about."""
    status, output, complaints = here(commands)
    assert (status, complaints) == (0, "")
    return output


# ------------------------------------------------------------------------------- each command


def test_writing_and_reading() -> None:
    assert prints("write /a one  'two  three'; cat /a /a") == "one two  three\n" * 2
    assert shell("write /a; cat /a", b"from\0outside") == (0, "from\0outside", "")
    assert prints("write 'a;b' x; ls; cat a\\;b") == "a;b\nx\n"


def test_directories() -> None:
    assert prints("mkdir /d; mkdir -p /d/e/f /d/e; cd d/e; pwd; ls; cd ..; pwd; ls /; cd; pwd") == (
        "/d/e\nf\n/d\nd\n/\n"
    )


def test_ls() -> None:
    output = prints("mkdir /d; write /d/file 12345; ls -l /d; ls -l /d/file; ls /d /d/file")
    long, named, *rest = output.splitlines()
    assert long.split()[:5] == ["-rw-r--r--", "1", str(os.getuid()), str(os.getgid()), "6"]
    assert long.split()[-1] == "file"
    assert named.split()[-1] == "/d/file"
    assert rest == ["/d:", "file", "/d/file"]


def test_names_that_are_not_printable_are_shown_so(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in (b"a\x1b[31mb", b"\xff"):
        (Path(os.fsdecode(os.fsencode(odd) + b"/" + name))).touch()
    assert prints(f"cp -r host:{odd} /; ls /odd") == "'a\\x1b[31mb'\n'\\udcff'\n"


def test_tree_find_and_stat() -> None:
    made = "mkdir -p /a/b; write /a/b/x.txt x; write /a/y y; "
    assert prints(made + "tree /") == (
        "/\n└── a\n    ├── b\n    │   └── x.txt\n    └── y\n\n2 directories, 2 files\n"
    )
    assert prints(made + "find /a") == "/a\n/a/b\n/a/b/x.txt\n/a/y\n"
    assert prints(made + "find / -type d; cd a; find -name '*.txt'; find b -type f") == (
        "/\n/a\n/a/b\n./b/x.txt\nb/x.txt\n"
    )
    output = prints(made + "stat /a/y /a")
    assert "File: /a/y\n  Type: regular file, " in output
    assert "Size: 2 bytes" in output
    assert "Access: 0644/-rw-r--r--, uid " in output
    assert "Type: directory" in output


def test_moving_and_removing() -> None:
    made = "mkdir -p /a/b; write /x 1; write /y 2; "
    assert prints(made + "mv /x /z; ls /; cat /z") == "a\ny\nz\n1\n"
    assert prints(made + "mv /x /y /a; find /") == "/\n/a\n/a/b\n/a/x\n/a/y\n"
    assert prints(made + "rm /x; rm -r /a /y; ls /") == ""


def test_copying_within() -> None:
    made = "mkdir -p /a/b; write /a/b/x 1; write /y 2; mkdir /into; "
    assert prints(made + "cp /y /z; cp /y /a/b/x /into; find /into; cat /z /into/x") == (
        "/into\n/into/x\n/into/y\n2\n1\n"
    )
    assert prints(made + "cp -r /a /into; cp -r /a /new; find /into; find /new") == (
        "/into\n/into/a\n/into/a/b\n/into/a/b/x\n/new\n/new/b\n/new/b/x\n"
    )


def test_copying_in_and_out_again_changes_nothing(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "dir" / "empty").mkdir(parents=True)
    (tree / "dir" / "data").write_bytes(os.urandom(3_000_000))
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o750)
    (tree / "dir").chmod(0o701)
    (tree / "link").symlink_to("dir/data")
    (tree / "dangling").symlink_to("nowhere")
    out = tmp_path / "out"
    out.mkdir()
    prints(f"cp -r host:{tree} /copy; cp -r /copy host:{out}; cp /copy/dir/data host:{out}/data")
    done = subprocess.run(
        ["diff", "-r", "--no-dereference", tree, out / "copy"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert (out / "data").read_bytes() == (tree / "dir" / "data").read_bytes()
    for path in ("script", "dir"):
        assert (out / "copy" / path).stat().st_mode == (tree / path).stat().st_mode
    assert os.readlink(out / "copy" / "dangling") == "nowhere"


def test_help_names_every_command() -> None:
    lines = prints("help").splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert prints("help cp").startswith("cp [-r] SOURCE [SOURCE ...] TARGET ")
    for name in ("ls", "cat", "cp", "tree", "stat", "find", "rm", "mkdir", "mv", "write", "exit"):
        assert name in COMMANDS
    assert "cp -r" in puffs_("shell", "--help").stdout


# ------------------------------------------------------------------------------------- failing


@pytest.mark.parametrize(
    ("command", "status", "complaint"),
    [
        ("cat /none", 1, "cat: /none: No such file or directory"),
        ("ls none", 1, "ls: /none: No such file or directory"),
        ("tree /none", 1, "tree: /none: No such file or directory"),
        ("mkdir /", 1, "mkdir: /: File exists"),
        ("mkdir /a/b", 1, "mkdir: /a/b: No such file or directory"),
        ("rm /", 1, "rm: /: Is a directory"),
        ("cd /none", 1, "cd: /none: No such file or directory"),
        ("cp host:/nowhere/at/all /", 1, "cp: host:/nowhere/at/all: No such file or directory"),
        ("cp / /x", 1, "cp: /: is a directory: cp -r copies it"),
        ("mkdir /d; cp -r /d /d/e", 1, "cp: /d: cannot be copied into itself"),
        ("write /x 1; write /y 2; cp /x /y /z", 1, "cp: /z: Not a directory"),
        ("write /x 1; write /y 2; mv /x /y /z", 1, "mv: /z: Not a directory"),
        ("cat host:/etc/hostname", 2, "cat: host:/etc/hostname is a path of the host: only cp"),
        ("ls -z", 2, "ls: unrecognized arguments: -z: usage: ls [-l] [PATH ...]"),
        ("cat", 2, "cat: the following arguments are required: PATH"),
        ("help me", 2, "help: there is no command 'me'"),
        ("frobnicate", 127, "frobnicate: no such command"),
        ("cat 'a", 2, "puffs: No closing quotation"),
    ],
)
def test_an_error_is_one_line_and_the_exit_status(
    command: str, status: int, complaint: str
) -> None:
    done = here(command)
    assert done[0] == status
    assert done[1] == ""
    assert done[2].startswith(complaint)
    assert done[2].count("\n") == 1


def test_the_status_is_that_of_the_last_command_that_failed() -> None:
    status, output, complaints = shell("nosuch; cat /none; write /a 1; cat /a")
    assert (status, output) == (1, "1\n")
    assert complaints.count("\n") == 2
    assert here("cat /none; nosuch; ls")[0] == 127
    assert shell("nosuch; exit; cat /none")[0] == 127
    assert here("") == (0, "", "")


def test_a_file_system_that_cannot_be_had() -> None:
    done = puffs_("shell", "nosuch:", "-c", "ls")
    assert done.returncode == 1
    assert done.stderr.startswith("puffs: ")
    assert done.stderr.count("\n") == 1


def test_output_that_nobody_reads() -> None:
    commands = "; ".join(["write /a " + "x" * 9000, *["cat /a"] * 200])
    with subprocess.Popen(
        [*PUFFS, "shell", "mem:", "-c", commands], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 0


# -------------------------------------------------------------------------------- interactively


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("", []),
        (" ; ;; ", []),
        ("a b;c", [["a", "b"], ["c"]]),
        ('a \'b;c\' "d;\\"e" f\\;g', [["a", "b;c", 'd;"e', "f;g"]]),
        ("a\nb", [["a"], ["b"]]),
        ("a '\\'; b", [["a", "\\"], ["b"]]),
    ],
)
def test_a_line_is_split_into_commands(line: str, commands: list[list[str]]) -> None:
    assert split(line) == commands


def test_completion(tmp_path: Path) -> None:
    (tmp_path / "hosts file").touch()
    with puffs.local(MemFS) as vfs:
        session = Session(Files(vfs))
        session.run("mkdir -p /etc/empty; write /etc/fstab x; write '/etc/a b' y; cd /etc")
        assert session.completions("t") == ["tree "]
        assert session.completions("ls; mk") == ["mkdir "]
        assert session.completions("nothing") == []
        assert session.completions("ls ") == ["'a b' ", "empty/", "fstab "]
        assert session.completions("cat /e") == ["/etc/"]
        assert session.completions("cat /etc/f") == ["/etc/fstab "]
        assert session.completions("ls none/") == []
        assert session.completions(f"cp host:{tmp_path}/h") == [f"'host:{tmp_path}/hosts file' "]


def test_several_lines() -> None:
    words = ["-c", "mkdir /d", "-c", "write /d/a 1; ls /d", "-c", "exit", "-c", "rm -r /d"]
    done = puffs_("shell", "mem:", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n", "")
    done = puffs_("shell", "mem:", "-c", "cat /none", "-c", "write /a 1", "-c", "ls")
    assert (done.returncode, done.stdout) == (1, "a\n")


def test_the_status_of_a_script_is_that_of_its_last_failure() -> None:
    for script, status in (("ls\n", 0), ("cat /none\nls\n", 1), ("nosuch\nexit\n", 127)):
        done = subprocess.run(
            [*PUFFS, "shell", "mem:"], input=script.encode(), capture_output=True, timeout=SECONDS
        )
        assert done.returncode == status, script


def test_lines_from_a_pipe() -> None:
    done = subprocess.run(
        [*PUFFS, "shell", "mem:"],
        input="mkdir /a\nls; pwd\ncat /none\nexit\nls\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (1, "a\n/\n")
    assert done.stderr == "cat: /none: No such file or directory\n"


class Terminal:
    """`puffs shell` at a terminal, as a person sees it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*PUFFS, "shell", "mem:"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(theirs)
        self.seen = ""

    def until(self, text: str) -> str:
        """Read until `text` has come; what has come since the last time."""
        while text not in self.seen:
            ready, _, _ = select.select([self._ours], [], [], SECONDS)
            assert ready, self.seen
            self.seen += os.read(self._ours, 4096).decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_at_a_terminal() -> None:
    terminal = Terminal()
    try:
        assert "mem:: `help` lists the commands, ^D ends" in terminal.until("/> ")
        terminal.type("mkdir -p /first/second\n")
        terminal.until("/> ")
        terminal.type("cd /fi\t\n")
        assert "cd /first/" in terminal.until("/first> ")
        terminal.type("cat none\n")
        assert "cat: /first/none: No such file or directory" in terminal.until("/first> ")
        terminal.type("half a line")
        terminal.until("half a line")
        terminal.type("\x03\n")  # Python may notice a signal with the next key only
        terminal.until("/first> ")
        terminal.type("pwd\n")
        terminal.until("/first\r\n")
        terminal.until("/first> ")
        terminal.type("\x04")
        assert terminal.process.wait(SECONDS) == 0
    finally:
        terminal.close()
