"""What a payload must not write, replace or see of the host: our own files, and what a profile hides.

Here it is found out where they are; `sandbox.plan.mounts` protects and hides them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from sandbox import paths
from sandbox.errors import ProfileError
from sandbox.plan.call import Call, unseen, upwards
from sandbox.plan.files import identity, kind_of, make_private
from sandbox.plan.invocation import Guard, Place, at, is_below, real_source
from sandbox.profile import files
from sandbox.profile.model import Origin
from sandbox.root import tables
from sandbox.words import quote

__all__ = ["guards", "hidden", "planted", "refuse_planted"]


def guards(call: Call, places: Sequence[Place]) -> tuple[Guard, ...]:
    """Our own files below a writable mount. Directories that do not exist yet are made: else the
    payload could make them, with what it likes in them."""
    writable = _writable(places)
    if not writable:
        return ()
    found = [_guard(call, path, "where sandbox is installed") for path in paths.installation()]
    found += [_guard(call, path, "the profile") for path in call.profile.files]
    for path, what in ((paths.config_dir(), "sandbox's configuration"), *_kept_of_runs()):
        guard = _guard(call, path, what)
        names = [each.path for each in _with_aliases([guard], places)]
        if any(is_below(name, each) for name in names for each in writable):
            make_private(guard.path, what)
            call.trace.see_again(guard.path)
        found.append(guard)
    for guard in found:
        _refuse_links(guard, writable)
    return _with_aliases(found, places)


def hidden(call: Call, places: Sequence[Place]) -> tuple[Guard, ...]:
    """Host paths that may be seen through no mount: what the profile hides, the runtime directories, and
    what sandbox keeps of other runs (variables of cached plans, what other sandboxes wrote)."""
    writable = _writable(places)
    found: list[Guard] = []
    for place in places:
        if place.mount.mode != "hide":
            continue
        guard = _guard(call, place.destination, "hidden")
        if _exists(call, guard.path, place):
            found.append(guard)
            continue
        if any(is_below(guard.path, each) for each in writable) and not place.mount.optional:
            raise ProfileError(
                f"{at(place.origin)}{place.destination} is to be hidden but does not exist, and the "
                "command could make it, because it lies below a writable mount",
                f"mkdir -m 700 {quote(guard.path)}, or set optional = true",
            )
    for guard in found:
        _refuse_links(guard, writable)
    for path in (*tables.RUNTIME, *(call.environ.get(name, "") for name in tables.RUNTIME_VARIABLES)):
        if path.startswith("/") and path.strip("/"):
            found += _runtime(call, path)
    # Whether they exist or not: the launch itself makes some.
    for path, what in _kept_of_runs():
        found.append(_guard(call, path, what))
    return _with_aliases(found, places)


def refuse_planted(call: Call, places: Sequence[Place]) -> None:
    """Refuse what the command is to get where a link on the way there may be an earlier command's, which
    led it to another place of the host's. Commands write in what this profile makes writable for them, and
    in a working directory, whatever this profile does with it: most others make it writable.

    Raises:
        ProfileError: naming the link and the real path.
    """
    shown = [place for place in places if place.mount.mode in ("ro", "rw", "overlay")]
    work = call.cwd if any(is_below(call.cwd, real_source(place)) for place in shown) else ""
    for source in call.sources:
        link = planted(source.links, places)
        link = link or next((each for each in source.links if work and is_below(each, work)), "")
        if link:
            raise ProfileError(
                f"{at(source.origin)}{source.path} is reached through the symbolic link {link}, which an "
                "earlier command may have left",
                f"name its real path, {source.real}",
            )


def planted(links: Iterable[str], places: Sequence[Place]) -> str:
    """The first of *links* that the command could replace, because it lies below a writable mount, or ""."""
    writable = _writable(places)
    return next((link for link in links if any(is_below(link, each) for each in writable)), "")


def _writable(places: Sequence[Place]) -> list[str]:
    return [real_source(place) for place in places if place.mount.mode == "rw"]


def _guard(call: Call, path: str, what: str) -> Guard:
    try:
        real, links = call.trace.follow(path)
    except OSError as error:
        raise unseen(Origin(""), what, path, error) from error
    return Guard(real, what, tuple(links))


def _refuse_links(guard: Guard, writable: Iterable[str]) -> None:
    """A link can't be protected as a directory can: nothing can be mounted on it."""
    for link in guard.links:
        for each in writable:
            if link != each and is_below(link, each):
                raise ProfileError(
                    f"{guard.what} is reached through the symbolic link {link}, which the command could "
                    f"replace because {each} is writable for it",
                    f"mount a directory below {each}, or replace the link by a directory",
                )


def _exists(call: Call, path: str, place: Place) -> bool:
    """Whether what is to be hidden exists, as far as a command could find out. It can open a directory of
    its own that is closed, and what in it is a link we can't tell; another user's stays closed."""
    try:
        return bool(kind_of(path))
    except OSError as error:
        closed = files.blocked(path)
        if closed and not files.is_ours(closed):
            return True
        raise unseen(place.origin, "what is to be hidden", path, error, place.mount.destination) from error


def _kept_of_runs() -> tuple[tuple[str, str], ...]:
    return (
        (paths.cache_dir(), "sandbox's cache"),
        (paths.state_dir(), "sandbox's state"),
        (paths.data_dir(), "sandbox's data"),
        (paths.runtime_dir(), "sandbox's runtime directory"),
    )


def _runtime(call: Call, path: str) -> list[Guard]:
    """A runtime directory or socket, if it exists or lies where we can't look, as after su(1)."""
    try:
        real, _ = call.trace.follow(path)
        found = [Guard(real, "runtime")]
        return found if kind_of(real) else []
    except PermissionError:
        return found
    except OSError:  # a loop of links, or a name that is too long: it leads nowhere
        return []


def _with_aliases(guards: Sequence[Guard], places: Sequence[Place]) -> tuple[Guard, ...]:
    """*guards*, and the same under the other names that mount sources have for them: a directory of the
    host's can be mounted at a second place there, and then its path alone does not tell."""
    known = cache(identity)
    by_source: dict[tuple[int, int], set[str]] = {}
    for place in places:
        if place.mount.mode in ("ro", "rw", "overlay"):
            by_source.setdefault(known(real_source(place)), set()).add(real_source(place))
    by_guard = {known(guard.path): guard for guard in guards}
    found = list(guards)
    for guard in guards:
        for parent in upwards(guard.path):
            rest = guard.path[len(parent.rstrip("/")) :]
            aliases = by_source.get(known(parent), set()) - {parent}
            found += [replace(guard, path=alias.rstrip("/") + rest) for alias in sorted(aliases)]
    for source in sorted(set().union(*by_source.values())):
        for parent in upwards(source):
            same = by_guard.get(known(parent))
            if same and same.path != parent:
                found.append(replace(same, path=parent))
    return tuple(dict.fromkeys(found))
