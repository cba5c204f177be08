"""How a file server in a process of its own is held: what those who mount it may ask for."""

from dataclasses import dataclass

from puffs.isolate.confinement import Confinement


@dataclass(frozen=True, slots=True)
class Isolation:
    """How a file server in a process of its own is held.

    Attributes:
        user: as whom it runs: a name or a uid; None: as who mounts. Only root can choose.
        memory: bytes of address space; beyond it, it gets `MemoryError`.
        cpu: seconds of processor time, in all; then it is killed.
        timeout: seconds that an operation may take: its caller then gets ETIMEDOUT, and if the file
            server answers nothing at all, it is killed. None: as long as it likes.
    """

    user: str | None = None
    memory: int | None = None
    cpu: int | None = None
    timeout: float | None = 120.0

    @property
    def confinement(self) -> Confinement:
        """What its process may do."""
        return Confinement(self.user, self.memory, self.cpu)


Isolate = bool | Isolation
"""Whether a file server gets a process of its own, or how it is held there."""


def isolation_of(isolate: Isolate) -> Isolation | None:
    """How a file server is held in a process of its own; None: it has none."""
    if isinstance(isolate, Isolation):
        return isolate
    return Isolation() if isolate else None
