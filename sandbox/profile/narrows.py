"""What may be changed by a project that is not trusted: the predicates of the settings table.

A project's file is hostile input: it may only narrow what the profile that would be used without
it grants. Each predicate says whether going from one value to another surely grants nothing more,
neither to see, nor to write, nor to use up, nor to influence what the user's own tools do
inside. Where that is in doubt the answer is no, and the user may trust the project.

Files are looked at only to follow links in paths; everything else is by values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.profile.model import Mount, Profile

__all__ = ["Context", "Narrows", "mount", "place_of"]


@dataclass(frozen=True, slots=True)
class Context:
    """What the predicates may look at besides the two values.

    `before` is the profile without the project, `after` with it; `project` the project's
    directory, a real path.
    """

    before: Profile
    after: Profile
    project: str
    cwd: str
    home: str


# Any, since every predicate knows the type of its own setting.
Narrows = Any


def never(before: Any, after: Any, context: Context) -> bool:
    """The default."""
    return False


def always(before: Any, after: Any, context: Context) -> bool:
    """For what only people read, and for the command: it runs inside, as all the project's code does."""
    return True


# --- scalars -----------------------------------------------------------------------------------------


def smaller(before: Any, after: Any, context: Context) -> bool:
    """A limit where there was none, or a lower one."""
    return after is not None and (before is None or after <= before)


def memory(before: int | None, after: int | None, context: Context) -> bool:
    """As `smaller`. Without a limit on disk the one on memory is also the size of the shared tmpfs, which
    without either is half of the machine's memory (tmpfs(5)): a limit above that would be a gain."""
    if after is None or not smaller(before, after, context):
        return False
    return before is not None or context.after.limits.disk is not None or after <= _half_of_memory()


def disk(before: int | None, after: int | None, context: Context) -> bool:
    """As `smaller`, and not more than the shared tmpfs had without a limit on disk."""
    if after is None or not smaller(before, after, context):
        return False
    return before is not None or after <= (context.before.limits.memory or _half_of_memory())


def swap(before: int | None, after: int | None, context: Context) -> bool:
    """Less, or none: without a value there is none beside a limit on memory."""
    return after is not None and (after == 0 or (before is not None and after <= before))


def _half_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def root_size(before: int | None, after: int | None, context: Context) -> bool:
    """Smaller only: where there was none the root was part of the shared tmpfs, and would get more room."""
    return before is not None and after is not None and after <= before


def to(*order: Any) -> Narrows:
    """From any of *order* to one that stands behind it."""

    def narrows(before: Any, after: Any, context: Context) -> bool:
        return before in order and after in order and order.index(before) <= order.index(after)

    return narrows


def net_mode(before: str, after: str, context: Context) -> bool:
    """Only to none at all: which of two networks reaches more, nobody can say."""
    return after == "none"


def root_from(before: str, after: str, context: Context) -> bool:
    """The host's programs may go; nothing may come."""
    return before == "host" and after == "empty"


def umask(before: int | None, after: int | None, context: Context) -> bool:
    """More bits; without one it is 022 (helpers/payload.c)."""
    return after is not None and (0o022 if before is None else before) & ~after == 0


def nice(before: int | None, after: int | None, context: Context) -> bool:
    """Nicer than the profile, or than the caller now is."""
    now = os.getpriority(os.PRIO_PROCESS, 0) if before is None else before
    return after is not None and after >= now


def workdir(before: str | None, after: str | None, context: Context) -> bool:
    """Below the project, where the caller stands anyway."""
    return after is not None and _below(_absolute(after, None, context), context.project)


# --- sets --------------------------------------------------------------------------------------------


def more(before: Sequence[str], after: Sequence[str], context: Context) -> bool:
    """More of what restricts (`require`, `deny`)."""
    return set(before) <= set(after)


def fewer(before: Sequence[str] | None, after: Sequence[str] | None, context: Context) -> bool:
    """Fewer of what grants; where None stands for a default that grants something."""
    if after is None:
        return False
    return set(after) <= set(before or ())


def keep(before: Sequence[str], after: Sequence[str], context: Context) -> bool:
    """Fewer of the caller's variables: each pattern of after is covered by one of before."""
    return all(any(_covers(old, new) for old in before) for new in after)


def _covers(old: str, new: str) -> bool:
    return new == old or (old.endswith("*") and new.startswith(old[:-1]))


def rlimits(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]], context: Context
) -> bool:
    """Those that were there, and none above what it was. A new one could be above the caller's, and could
    take the place of one that [limits] sets."""
    return before.keys() == after.keys() and all(
        _at_most(now, was) for name in before for now, was in zip(after[name], before[name], strict=True)
    )


def _at_most(now: int, was: int) -> bool:
    return was == -1 or (now != -1 and now <= was)


# --- mounts ------------------------------------------------------------------------------------------

#: how much of a source a mode grants; the others grant nothing of the host's
_ACCESS = {"ro": 1, "overlay": 2, "rw": 3}
#: Where a host root, or we, put something on our own: taking a mount away there would show it.
#: A test compares it with the tables of `sandbox.root`, which are above this layer.
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/opt",
    "/nix",
    "/gnu",
    "/etc",
    "/dev",
    "/proc",
    "/sys",
    "/run",
    "/var/run",
)


def mount(before: Mount | None, after: Mount | None, context: Context) -> str:
    """Why going from one mount to another at the same destination widens; "" when it doesn't.

    None is no mount there. What may change:

    * to hide, or to a tmpfs of the shared pool, anywhere: it only covers. But a hide must stay, since it
      hides its path under every mount that would show it;
    * the same source with less access;
    * a new mount of the project's own files at their own path, where the profile shows them already with
      no less access. At another path it could cover the user's tools and configuration;
    * none at all, where nothing of the host comes to light beneath.
    """
    if before is not None and before.mode == "hide":
        kept = after is not None and after.mode == "hide" and (before.optional or not after.optional)
        return "" if kept else "what the profile hides must stay hidden"
    if after is None:
        return _removal(before, context)
    if after.mode == "hide":
        return ""
    if after.mode == "tmpfs":
        return _room(before, after)
    if before is not None and _source(before, context) == _source(after, context):
        return _same_source(before, after)
    return _shown_already(after, context)


def _removal(before: Mount | None, context: Context) -> str:
    if before is None:
        return ""
    where = place_of(before, context)
    below = _covering(context.after.mounts, where, context)
    if below is not None and below.mode != "tmpfs":
        return f"without it {place_of(below, context)} would show what it covers"
    shared = below is None and any(_starts(where, each) for each in SYSTEM)
    if shared or (below is None and context.after.root.source.partition(":")[0] not in ("host", "empty")):
        return "without it the root would show what it covers"
    return ""


def _starts(path: str, prefix: str) -> bool:
    """Also /lib64 for /lib."""
    return path.startswith(prefix)


def _room(before: Mount | None, after: Mount) -> str:
    """A tmpfs of its own size is outside of the limit on disk."""
    if after.size is None:
        return ""
    if (
        before is not None
        and before.mode == "tmpfs"
        and before.size is not None
        and after.size <= before.size
    ):
        return ""
    return "its size is memory besides what limits.disk allows"


def _same_source(before: Mount, after: Mount) -> str:
    if _ACCESS.get(after.mode, 0) > _ACCESS.get(before.mode, 0):
        return f"it is {before.mode} in the profile"
    if after.size is not None and (
        before.size is None or after.size > before.size or before.mode != after.mode
    ):
        return "its size is memory besides what limits.disk allows"
    if after.optional and not before.optional:
        return "it is not optional in the profile"
    return ""


def _shown_already(after: Mount, context: Context) -> str:
    source, where = _source(after, context), place_of(after, context)
    if source is None or not _below(source, context.project):
        return f"{after.source or after.destination} is outside of the project"
    if source != where:
        return "it shows the project's files at another path"
    if after.size is not None:
        return "its size is memory besides what limits.disk allows"
    shows = _covering(context.before.mounts, where, context, equal=True)
    if shows is None or shows.mode not in _ACCESS:
        return f"the profile does not show {where}"
    # The path that the covering mount has there must be the very same file.
    inside = os.path.relpath(where, place_of(shows, context))
    origin = _source(shows, context)
    if origin is None or os.path.normpath(os.path.join(origin, inside)) != source:
        return f"the profile shows something else at {where}"
    if _ACCESS[after.mode] > _ACCESS[shows.mode]:
        return f"{where} is {shows.mode} in the profile"
    return ""


def _covering(mounts: Sequence[Mount], path: str, context: Context, *, equal: bool = False) -> Mount | None:
    """The deepest of *mounts* whose destination is above *path* (or *equal*)."""
    best, length = None, -1
    for each in mounts:
        where = place_of(each, context)
        if (equal or where != path) and _below(path, where) and len(where) > length:
            best, length = each, len(where)
    return best


def place_of(each: Mount, context: Context) -> str:
    """The path that a mount's destination is inside."""
    if each.destination.startswith(("/", "~")):
        return _expand(each.destination, context)
    return _real(_absolute(each.destination, each.base, context))


def _source(each: Mount, context: Context) -> str | None:
    """The real path of the source; None for what shows nothing of the host."""
    if each.mode not in _ACCESS:
        return None
    written = each.destination if each.source is None else each.source
    return _real(_absolute(written, each.base, context))


def _absolute(path: str, base: str | None, context: Context) -> str:
    return os.path.normpath(os.path.join(base or context.cwd, _expand(path, context)))


def _expand(path: str, context: Context) -> str:
    return context.home.rstrip("/") + path[1:] or "/" if path == "~" or path.startswith("~/") else path


def _below(path: str, directory: str) -> bool:
    return path == directory or directory == "/" or path.startswith(directory + "/")


def _real(path: str) -> str:
    return os.path.realpath(path)
