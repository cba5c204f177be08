"""The checks: what one is, and how a battery registers its own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from puffs.check.target import Target
from puffs.server.operations import OPERATIONS

GROUPS = (
    "names",
    "rename",
    "links",
    "data",
    "ranges",
    "attributes",
    "times",
    "directories",
    "opening",
    "xattrs",
    "acls",
    "special",
    "locks",
    "permissions",
    "reading",
    "whole",
)
"""The modules of the battery, in the order in which they run and are shown."""

Body = Callable[[Target], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, and the function that puts it to the test.

    `rule` names the source of the rule and says it in a few words. `needs` are the operations (of
    the operation table) without which the check says nothing. `mounted_only`: there is no such call
    in process. `root`: only the superuser can do it.
    """

    name: str
    group: str
    rule: str
    needs: frozenset[str]
    body: Body
    mounted_only: bool = False
    root: bool = False


_checks: dict[str, Check] = {}


def battery(group: str) -> Callable[..., Callable[[Body], Body]]:
    """The decorator with which the battery `group` registers its checks.

    `@check(name, rule, needs="create rename")`; `needs` are operations, separated by blanks. The
    function gets a `Target`: an empty directory of its own. It returns when all is well, and raises
    `AssertionError` with a message for the author when it is not; an `OSError` that it does not
    expect counts as well.
    """

    def check(
        name: str, rule: str, *, needs: str = "", mounted_only: bool = False, root: bool = False
    ) -> Callable[[Body], Body]:
        needed = frozenset(needs.split())
        if unknown := needed - OPERATIONS.keys():
            raise ValueError(f"check {name}: there is no operation {', '.join(sorted(unknown))}")
        if name in _checks:
            raise ValueError(f"there are two checks {name}")

        def register(body: Body) -> Body:
            _checks[name] = Check(name, group, rule, needed, body, mounted_only, root)
            return body

        return register

    return check


def all_checks() -> list[Check]:
    """Every check, group by group."""
    for group in GROUPS:
        import_module(f"puffs.check.battery.{group}")
    return sorted(_checks.values(), key=lambda check: GROUPS.index(check.group))


def select(only: Iterable[str] = ()) -> list[Check]:
    """The checks whose name or group is in `only`; all of them when it is empty.

    Raises `ValueError` for a word that is neither.
    """
    checks, only = all_checks(), set(only)
    known = {word for check in checks for word in (check.name, check.group)}
    if unknown := only - known:
        raise ValueError(
            f"there is no check and no group {', '.join(sorted(unknown))}; "
            f"the groups are {', '.join(GROUPS)}"
        )
    return [check for check in checks if not only or only & {check.name, check.group}]
