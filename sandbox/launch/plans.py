"""The plans of this process's last few calls, used again while what they were made from is unchanged."""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sandbox.errors import SetupError
from sandbox.launch.kept import Keeping
from sandbox.launch.prepare import Prepared, prepare
from sandbox.launch.start import Outdated
from sandbox.plan.layers import Layers

if TYPE_CHECKING:
    from sandbox.profile.model import Profile

__all__ = ["with_plan"]

_PLANS = 32
_TRIES = 10
_T = TypeVar("_T")

#: what was asked for -> its plan, and the profile object, whose id must not be used again meanwhile
_plans: OrderedDict[tuple[object, ...], tuple[Prepared, object]] = OrderedDict()
#: a signal's handler may launch in the midst of a launch, and then finds this thread in here
_plans_lock = threading.RLock()


def _prepare(profile: str | Profile | None, kept: Keeping, cwd: str | os.PathLike[str] | None) -> Prepared:
    """`prepare`, with the last few plans kept for as long as what they were made from is unchanged; but those
    for boxes, in which anything may have changed."""
    from sandbox.host.facts import core_handler

    try:
        where = os.path.abspath(cwd) if cwd is not None else os.getcwd()
    except OSError as error:
        message = f"cannot use the working directory: {error.strerror}"
        raise SetupError(message, "cd to a directory that exists") from error
    environ, overrides = dict(os.environ), kept.overrides
    if kept.box is not None:
        layers = Layers(kept.box.layered(), kept.box.upper)
        return prepare(profile, overrides, where, environ, layers=layers, guarded=kept.guarded)
    asked = profile if profile is None or isinstance(profile, str) else id(profile)
    rights = (os.geteuid(), os.getegid(), *os.getgroups(), os.getpriority(os.PRIO_PROCESS, 0))
    hard = tuple(resource.getrlimit(number) for number in range(16))  # a plan's own are no higher
    machine = (*rights, *hard, core_handler())
    said = (repr(sorted(overrides.items())), kept.guarded)
    key = (asked, said, where, frozenset(environ.items()), machine)
    with _plans_lock:
        found = _plans.pop(key, None)
        if found is not None:
            _plans[key] = found  # the last one again
    if found is not None and found[0].current():
        return found[0]
    made = prepare(profile, overrides, where, environ, guarded=kept.guarded)
    with _plans_lock:
        _plans[key] = made, profile
        while len(_plans) > _PLANS:
            _plans.popitem(last=False)
    return made


def with_plan(
    profile: str | Profile | None,
    kept: Keeping,
    cwd: str | os.PathLike[str] | None,
    use: Callable[[Prepared], _T],
) -> _T:
    """*use* of the plan; of another one, when the layers of this were removed meanwhile."""
    for _ in range(_TRIES):
        prepared = _prepare(profile, kept, cwd)
        try:
            return use(prepared)
        except Outdated as error:
            outdated = error
            with _plans_lock:
                for key in [key for key, (each, _) in list(_plans.items()) if each is prepared]:
                    _plans.pop(key, None)
    raise outdated
