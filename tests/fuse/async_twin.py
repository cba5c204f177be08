"""A file server's twin whose operations are `async def`."""

import asyncio
from collections.abc import Callable
from typing import Any

from puffs.server.operations import Operations

_ALWAYS_DEF = ("fileid",)
"""What the kernel half asks while it enters a node: it holds nothing up."""


def async_twin(cls: Any) -> Any:
    """A class with the operations of `cls` as `async def`; each lets the loop go on first."""

    def twin(operation: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            await asyncio.sleep(0)
            return operation(*args)

        return call

    def operations(self: Any) -> Operations:
        plain: Operations = cls.operations(self)
        return {
            name: operation if name in _ALWAYS_DEF else twin(operation)
            for name, operation in plain.items()
        }

    return type(f"Async{cls.__name__}", (cls,), {"operations": operations, "asynchronous": True})
