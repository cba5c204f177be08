"""What the process of a file server does for a test, which looks at the mount from outside."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from puffs.attach.local.vfs import local  # here, and not at its first use on a thread there
from puffs.kernel.mount import Mount
from tests.fuse.conftest import PATIENCE


class Calls:
    """The methods of one object there: each call is made there, and its result comes back.

    What returns a future is waited for there.
    """

    def __init__(self, connection: Connection, target: str) -> None:
        self._connection = connection
        self._target = target

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin(name, *args, **kwargs)
            return self.end()

        return call

    def begin(self, method: "str | Callable[..., Any]", *args: Any, **kwargs: Any) -> None:
        """Have a method called, or a function with the object as its first argument."""
        self._connection.send((self._target, method, args, kwargs))

    def end(self, seconds: float = PATIENCE) -> Any:
        """What has been begun has the result."""
        assert self._connection.poll(seconds), "it does not return"
        result, error = self._connection.recv()
        if error is not None:
            raise error
        return result


class Inside:
    """`mount`, the file `server`, and `vfs`: the mount as it is used in process.

    `on_ready` is for `Served.start`. A thread there makes the calls, one after the other.
    """

    def __init__(self) -> None:
        ours, self._theirs = Pipe()
        self.mount = Calls(ours, "mount")
        self.server = Calls(ours, "server")
        self.vfs = Calls(ours, "vfs")

    def on_ready(self, mount: Mount) -> None:
        """Begin to obey."""
        threading.Thread(target=self._obey, args=(mount,), daemon=True).start()

    def _obey(self, mount: Mount) -> None:
        targets: dict[str, Any] = {"mount": mount, "server": mount.server}
        while True:
            target, method, args, kwargs = self._theirs.recv()
            try:
                if target not in targets:  # it is attached when it is first used
                    targets[target] = local(mount)
                what = targets[target]
                if callable(method):
                    result = method(what, *args, **kwargs)
                else:
                    result = getattr(what, method)(*args, **kwargs)
                if isinstance(result, Future):
                    result = result.result(PATIENCE)
            except Exception as exc:
                self._theirs.send((None, exc))
            else:
                self._theirs.send((result, None))
