"""`Mount.sync` with a real kernel as host."""

import pytest

import puffs
from puffs.kernel.mount import Mount
from tests.fuse.async_twin import async_twin
from tests.fuse.conftest import Serve
from tests.fuse.servers import Noting

pytestmark = pytest.mark.fuse


@pytest.mark.statement("P9")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_lazy_may_be_asked_for_on_the_very_thread_that_serves(kind: str, serve: Serve) -> None:
    """Whoever waited there would wait for himself."""

    def ready(mount: Mount) -> None:
        mount.sync(puffs.Wait.LAZY)

    served = serve(Noting if kind == "sync" else async_twin(Noting), on_ready=ready)
    served.round_trips(lambda: served.notes("sync") == [("sync", False)])
    assert served.log == []
