"""The public names, and that what the README shows is true."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import puffs
from puffs.attach.fuse.abi import MESSAGES, Opcode
from puffs.attach.fuse.dispatch import ROUTES
from puffs.server.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[1]


def test_every_public_name_can_be_loaded_and_is_known_to_type_checkers() -> None:
    tree = ast.parse(Path(puffs.__file__).read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.asname for node in guarded.body for alias in node.names}  # type: ignore[attr-defined]
    assert typed == set(puffs.__all__)
    for name in puffs.__all__:
        assert getattr(puffs, name) is not None
    assert set(puffs.__all__) <= set(dir(puffs))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = puffs.no_such_name


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads in a new interpreter."""
    program = (
        f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    )
    return set(subprocess.check_output([sys.executable, "-c", program], text=True).split())


def test_importing_puffs_loads_nothing_else() -> None:
    loaded = loaded_by("import puffs")
    assert [name for name in loaded if name.startswith("puffs.")] == []
    assert not loaded & {"asyncio", "ctypes", "dataclasses", "inspect", "logging"}


def test_a_file_server_with_plain_operations_loads_no_event_loop_and_nothing_of_others() -> None:
    loaded = loaded_by("import puffs; puffs.FileSystem, puffs.main, puffs.mount, puffs.session")
    assert "puffs.attach.fuse.session" in loaded
    assert not loaded & {"asyncio", "ssl", "click", "rich", "hypothesis"}
    others = ("puffs.attach.local", "puffs.attach.fuse.aio", "puffs.check", "puffs.cli", "puffs.fs")
    assert [name for name in loaded if name.startswith((*others, "puffs.isolate.process"))] == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_operation_table_is_what_the_class_says(name: str) -> None:
    method = getattr(puffs.FileSystem, name)
    parameters = list(inspect.signature(method).parameters)[1:]
    assert tuple(parameters) == OPERATIONS[name].args
    assert inspect.getdoc(method)


def test_the_class_has_no_operation_that_the_table_lacks() -> None:
    methods = {
        name
        for name, value in vars(puffs.FileSystem).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert methods - {"operations"} == set(OPERATIONS)


def test_every_opcode_has_a_route() -> None:
    assert set(ROUTES) == set(MESSAGES) - {Opcode.CUSE_INIT}
    assert {route.operation for route in ROUTES.values()} - {None} <= set(OPERATIONS)


@pytest.mark.parametrize("name", puffs.__all__)
def test_what_is_public_is_documented(name: str) -> None:
    value = getattr(puffs, name)
    if getattr(value, "__module__", "").startswith("puffs"):
        assert inspect.getdoc(value)
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_") and function.__module__.startswith("puffs"):
                assert inspect.getdoc(function), f"{name}.{member}"


def readme_programs() -> dict[str, str]:
    """The Python programs of the README that can be run as they are."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    whole = [block for block in blocks if "puffs.main(" in block and "import puffs" in block]
    return dict(zip(("tree", "paths"), whole, strict=True))


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("program", "commands", "expected"),
    [
        (
            "tree",
            "ls -l $0 && cat $0/hello.txt && cat $0/clock/now && find $0 -type f | wc -l",
            r".*dr-xr-xr-x .* clock\n-r--r--r-- .* 7 .* hello.txt\nHello!\n.*\d{4}\n2\n",
        ),
        (
            "paths",
            "ls -l $0 && cat $0/shout && find $0 -name 's*'",
            r".*-r--r--r-- .* 18 .* shout\nHELLO FROM PYTHON\n.*/shout\n",
        ),
    ],
)
def test_the_examples_of_the_readme(
    program: str, commands: str, expected: str, tmp_path: Path
) -> None:
    script, mountpoint = tmp_path / "hello.py", tmp_path / "mnt"
    script.write_text(readme_programs()[program])
    mountpoint.mkdir()
    subprocess.run([sys.executable, script, mountpoint], check=True, timeout=30)
    try:
        output = subprocess.check_output(["sh", "-c", commands, mountpoint], text=True, timeout=30)
    finally:
        subprocess.run(["umount", mountpoint], check=True, timeout=30)
    assert re.fullmatch(expected, output, re.S)
