"""Who may do what: the host decides, or the file server does, and it is the same as on any other
file system.
"""

from collections.abc import Callable

import pytest

from puffs.fs.mem import MemFS
from tests.fs.host import in_memory
from tests.fuse.checked import Checked
from tests.fuse.conftest import Serve
from tests.fuse.others import needs_root
from tests.fuse.permitted import USERS, answers

SOME = ("in a group of ACLs",)


@needs_root
@pytest.mark.parametrize("make", [MemFS, Checked], ids=["the host", "the file server"])
@pytest.mark.parametrize(
    "users",
    [
        pytest.param(SOME, id="some users"),
        pytest.param(
            tuple(user for user in USERS if user not in SOME), id="others", marks=pytest.mark.slow
        ),
    ],
)
def test_the_same_users_may_do_the_same(
    serve: Serve, make: Callable[[], MemFS], users: tuple[str, ...]
) -> None:
    with in_memory() as directory:
        wanted = answers(directory, users)
    said = answers(serve(lambda notes: make(), "allow_other,suid,dev").path, users)
    if make is Checked:
        # Linux itself looks for the owner, before it asks a file server that decides.
        for call, answer in said.items():
            if call.endswith("to read quietly") and answer == ("EPERM",):
                said[call] = wanted[call] if wanted[call] == ("EACCES",) else answer
    different = {call: (said[call], wanted[call]) for call in wanted if said[call] != wanted[call]}
    assert different == {}
