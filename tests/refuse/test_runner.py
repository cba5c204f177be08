"""`puffs refuse` and `python -m puffs.refuse`: which programs they start, and what those see."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from puffs.refuse.provided import sitecustomize

SECONDS = 30
COMMANDS = (("puffs", "refuse"), ("puffs.refuse",))
SEEN = "from importlib.util import find_spec; print(find_spec('fuse').origin)"
"""A program that tells what `import fuse` would bring."""
FUSEPY = "puffs.refuse.fusepy\n"

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture(params=COMMANDS, ids=" ".join)
def refuse(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run `puffs refuse` with these words, in `tmp_path`."""
    command = [sys.executable, "-m", *request.param]

    def run(*words: str | Path, **environment: str) -> Done:
        return subprocess.run(
            [*command, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run


def script(path: Path, text: str, interpreter: str | Path = sys.executable) -> Path:
    path.write_text(f"#!{interpreter}\n{text}\n")
    path.chmod(0o755)
    return path


def printed(done: Done) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(done: Done, status: int = 126) -> str:
    """What a command says that is not started: one line, no traceback."""
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("puffs: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_script_in_path_a_file_a_module_and_options_for_python(
    refuse: Run, tmp_path: Path
) -> None:
    arguments = SEEN + "; import sys; print(*sys.argv[1:])"
    program = script(tmp_path / "program", arguments)
    (tmp_path / "file.py").write_text(arguments)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for words in ["program"], [program], ["./program"], ["file.py"], ["--", "-m", "file"]:
        assert printed(refuse(*words, "-o", "--", "x", PATH=path)) == FUSEPY + "-o -- x\n"
    assert printed(refuse("--", "-c", SEEN)) == FUSEPY
    assert (
        printed(refuse("--", sys.executable, "-B", "-Xdev", "-W", "ignore", "-c", SEEN)) == FUSEPY
    )


def test_a_file_here_that_may_be_executed_needs_no_dot_before_it(
    refuse: Run, tmp_path: Path
) -> None:
    script(tmp_path / "here.py", "import sys; print(*sys.argv)", "/usr/bin/env python3")
    assert printed(refuse("here.py", "x")) == "here.py x\n"


def test_a_module_needs_no_dashes_without_click(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(SEEN + "; import sys; print(*sys.argv[1:])")
    command = [sys.executable, "-m", "puffs.refuse"]
    for words in ["-m", "file"], ["--api", "fusepy", "-m", "file"], ["./file.py"]:
        arguments = [*command, *words, "-m", "--api", "x"]
        seen = subprocess.check_output(arguments, text=True, cwd=tmp_path, timeout=SECONDS)
        assert seen == FUSEPY + "-m --api x\n"
    nothing = subprocess.run([*command, "-m"], capture_output=True, timeout=SECONDS)
    assert nothing.returncode == 2


def test_api_says_whose_fuse_is_meant(refuse: Run) -> None:
    assert printed(refuse("--api", "mfusepy", "--", "-c", SEEN)) == "puffs.refuse.mfusepy\n"
    assert printed(refuse("--api", "fusepy", "--", "-c", SEEN)) == FUSEPY
    unknown = refuse("--api", "other", "--", "-c", SEEN)
    assert unknown.returncode == 2
    assert "fusepy" in unknown.stderr
    assert "mfusepy" in unknown.stderr


@pytest.mark.parametrize("name", sitecustomize.PROVIDED)
def test_every_name_is_provided(name: str) -> None:
    code = (
        "import sys; from importlib import import_module; "
        "print(import_module(sys.argv[1]) is import_module(sys.argv[2]))"
    )
    target = sitecustomize.PROVIDED[name]
    command = [sys.executable, "-m", "puffs.refuse", "--", "-c", code, name, target]
    assert subprocess.check_output(command, text=True, timeout=SECONDS) == "True\n"


def test_children_see_it_too(refuse: Run, tmp_path: Path) -> None:
    child = script(tmp_path / "child", SEEN)
    parent = f"import subprocess; subprocess.run([{str(child)!r}])"
    assert printed(refuse("--", "-c", parent)) == FUSEPY
    assert (
        printed(refuse(script(tmp_path / "wrapper", 'exec "${0%/*}/child"', "/bin/sh"))) == FUSEPY
    )


def test_a_copy_of_fuse_beside_the_program_is_passed_over(refuse: Run, tmp_path: Path) -> None:
    (tmp_path / "fuse.py").write_text("raise SystemExit('the copy beside the program')")
    assert printed(refuse(script(tmp_path / "program", SEEN))) == FUSEPY
    assert printed(refuse("--", "-c", SEEN, PYTHONPATH=str(tmp_path))) == FUSEPY


def test_a_copy_of_fuse_in_a_package_of_the_program_is_passed_over(
    refuse: Run, tmp_path: Path
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/fuse.py").write_text("# calls libfuse.fuse_main_real\n")
    (tmp_path / "package/mfusepy.py").write_text("# says fuse_main only: it is none\n")
    code = "from importlib.util import find_spec; print(find_spec('package.fuse').origin)\n"
    assert printed(refuse("--", "-c", code)) == FUSEPY
    assert printed(refuse("--", "-c", code.replace("package.fuse", "package.mfusepy"))) == (
        f"{tmp_path}/package/mfusepy.py\n"
    )


def test_what_the_environment_had_is_kept(refuse: Run, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("print('customized', __name__)")
    (theirs / "neighbour.py").touch()
    code = "import neighbour; " + SEEN
    seen = printed(refuse("--", "-c", code, PYTHONPATH=str(theirs)))
    # Once by puffs itself, which starts in the same environment.
    assert seen == 2 * "customized sitecustomize\n" + FUSEPY


def test_a_program_of_another_environment_finds_puffs_and_nothing_beside_it(
    refuse: Run, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "other"], cwd=tmp_path, check=True
    )
    code = SEEN + (
        "; import puffs; print(puffs.__version__)\n"
        "print(find_spec('click'), find_spec('pytest'), find_spec('setup'))"
    )
    program = script(tmp_path / "program", code, tmp_path / "other/bin/python")
    import puffs

    assert printed(refuse(program)) == f"{FUSEPY}{puffs.__version__}\nNone None None\n"


def test_an_old_python_is_told_so_when_it_asks(refuse: Run) -> None:
    old = "import sys; sys.version_info = (3, 9, 1); print('runs')\n"
    assert printed(refuse("--", "-c", old)) == "runs\n"
    done = refuse("--", "-c", old + "try: import fuse\nexcept ImportError: print('without')")
    assert done.stdout == "runs\nwithout\n"
    assert done.stderr == (
        "puffs refuse: fuse: puffs needs Python 3.11 or later, and this is 3.9\n"
    )


@pytest.mark.parametrize(
    "code", ["import fuse; class_ = fuse.Fuse", "from fuse import Fuse", "from fuse import Stat"]
)
def test_a_program_for_the_other_module_fuse_is_told_so(refuse: Run, code: str) -> None:
    done = refuse("--", "-c", code)
    assert done.returncode == 1
    assert "ImportError: fuse." in done.stderr
    assert "libfuse's own binding (fuse-python" in done.stderr
    asks = "import fuse; print(hasattr(fuse, '__version__'), hasattr(fuse, 'other'))"
    done = refuse("--", "-c", asks)
    assert (done.returncode, done.stdout) == (0, "False False\n")
    assert done.stderr.count("libfuse's own binding") == 1


def test_error_numbers_are_where_fusepy_2_had_them(refuse: Run) -> None:
    code = "from fuse import ENOENT, EISDIR, FUSE; print(ENOENT, EISDIR)"
    assert printed(refuse("--", "-c", code)) == f"{errno.ENOENT} {errno.EISDIR}\n"
    done = refuse("--", "-c", "from fuse import ENONSENSE")
    assert "cannot import name 'ENONSENSE'" in done.stderr


def test_exit_status_and_signals_are_those_of_the_program(refuse: Run, tmp_path: Path) -> None:
    assert refuse("--", "-c", "raise SystemExit(7)").returncode == 7
    for number in signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ:
        shell = script(tmp_path / "shell", f"kill -{number} $$", "/bin/sh")
        assert refuse(shell).returncode == -number


def test_what_cannot_be_run_is_refused_with_the_reason(refuse: Run, tmp_path: Path) -> None:
    assert "no such program" in refused(refuse("there-is-no-such"), 127)
    assert "no such program" in refused(refuse("./there-is-no-such.py"), 127)
    (tmp_path / "data").write_text("data")
    assert "puffs refuse -- python3 PROGRAM" in refused(refuse("./data"))
    assert "'': there is no such program" in refused(refuse("--", ""), 127)
    assert "not executable" in refused(refuse(tmp_path))
    assert "no Python program" in refused(refuse("cat", "/dev/null"))
    assert "but one for perl" in refused(refuse(script(tmp_path / "p", "1;", "/usr/bin/env perl")))
    gone = script(tmp_path / "gone", SEEN, tmp_path / "bin/python3")
    assert "cannot be started: No such file" in refused(refuse(gone))
    nothing = refuse()
    assert (nothing.returncode, "usage: " in nothing.stderr.lower()) == (2, True)


@pytest.mark.parametrize(
    "options", ["-I", "-E", "-S", "-sE", "-WignoreI -uI", "-W ignore -X dev -bbE"]
)
def test_options_that_hide_puffs_are_refused(refuse: Run, tmp_path: Path, options: str) -> None:
    words = options.split()
    assert "sees nothing of what puffs provides" in refused(
        refuse("--", sys.executable, *words, "-c", SEEN)
    )
    assert "sees nothing" in refused(refuse("--", *words, "-c", SEEN))
    said = refused(refuse(script(tmp_path / "program", SEEN, f"{sys.executable} {options}")))
    assert f"the first line of {tmp_path}/program has the option -" in said


def test_options_after_the_program_are_its_own(refuse: Run, tmp_path: Path) -> None:
    program = script(tmp_path / "program", SEEN)
    assert printed(refuse("--", sys.executable, program, "-I")) == FUSEPY
    assert printed(refuse("--", sys.executable, "-c", SEEN, "-I")) == FUSEPY


OFF_LINUX = """
import sys
sys.platform = "darwin"
from importlib import import_module
for name in sys.argv[1:]:
    print(import_module("puffs.refuse." + name).__name__)
"""


def test_off_linux_a_module_is_the_library_itself(tmp_path: Path) -> None:
    (tmp_path / "pyfuse3").mkdir()
    for name in "fuse", "mfusepy", "llfuse", "pyfuse3/__init__", "pyfuse3/asyncio":
        (tmp_path / name).with_suffix(".py").touch()
    names = ["fusepy", "mfusepy", "llfuse", "pyfuse3", "pyfuse3.asyncio"]
    libraries = ["fuse", "mfusepy", "llfuse", "pyfuse3", "pyfuse3.asyncio"]
    command = [sys.executable, "-c", OFF_LINUX, *names]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    seen = subprocess.check_output(command, env=environment, text=True, timeout=SECONDS)
    assert seen.split() == libraries


def test_off_linux_nothing_is_provided(tmp_path: Path) -> None:
    code = (
        "import sys, runpy; sys.platform = 'darwin'; before = [*sys.meta_path]; "
        f"runpy.run_path({sitecustomize.__file__!r}, run_name='sitecustomize'); "
        "print(before == sys.meta_path)"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True, timeout=SECONDS) == "True\n"
