"""What the tests of use in process have in common."""

from collections.abc import Iterator

import pytest

import puffs


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "cached"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Users see the same with page cache and without it: a module that uses this runs both ways."""
    with pytest.MonkeyPatch.context() as patch:
        defaults = {**(puffs.local.__kwdefaults__ or {}), "cache": request.param}
        patch.setattr(puffs.local, "__kwdefaults__", defaults)
        yield
