"""Runs whose changes stay, for the API: the seam to boxes, which lie above launching.

Nothing of boxes is imported here; a call that names none costs nothing of theirs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

if TYPE_CHECKING:
    from sandbox.plan.layers import Layered
    from sandbox.plan.plan import Plan
    from sandbox.profile.model import Profile

__all__ = ["Box", "Keeping", "keeping"]

#: who knows boxes: a module with the functions of `_Keeper`
_KEEPER = "sandbox.box.keeping"


class Box(Protocol):
    """See `sandbox.box.Box`."""

    fd: int

    @property
    def upper(self) -> str: ...

    def layered(self) -> Layered: ...

    def expect(self, made: list[str]) -> None: ...

    def close(self) -> None: ...


class _Keeper(Protocol):
    """See `sandbox.box.keeping`."""

    def box_for(
        self,
        name: str,
        keep: bool,
        profile: str | Profile | None,
        overrides: Mapping[str, object],
        cwd: str,
        progress: TextIO | None,
    ) -> Box | None: ...

    def overrides_for(self, box: Box, overrides: Mapping[str, object]) -> dict[str, object]: ...

    def give_up(self, box: Box) -> None: ...


class Keeping(NamedTuple):
    """What a call runs in: its settings, and the box, if it has one."""

    overrides: Mapping[str, object]
    box: Box | None = None
    #: files of the host's that the command must not replace
    guarded: tuple[str, ...] = ()

    def fds(self, plan: Plan) -> list[int]:
        """What a supervisor on *plan* holds, so that the box stays in use as long as it is there."""
        if self.box is None:
            return []
        self.box.expect(plan.made_at)
        return [self.box.fd]


@contextlib.contextmanager
def keeping(
    name: str | None,
    keep: bool,
    profile: str | Profile | None,
    overrides: Mapping[str, object],
    cwd: str | os.PathLike[str] | None,
) -> Iterator[Keeping]:
    """The box that a call names, while it is launched. Afterwards it is whoever holds it that has it; one
    that was made for a launch that failed is removed.

    Raises:
        ValueError: *keep* without a name.
        SandboxError: it can't be had.
    """
    if not name:
        if keep:
            raise ValueError("keep=True takes name=: under which name is it to be kept?")
        yield Keeping(overrides)
        return
    keeper: _Keeper = import_module(_KEEPER)
    box = keeper.box_for(name, keep, profile, overrides, os.path.abspath(cwd or "."), None)
    if box is None:
        yield Keeping(overrides)
        return
    try:
        yield Keeping(keeper.overrides_for(box, overrides), box)
    except BaseException:
        keeper.give_up(box)
        raise
    box.close()
