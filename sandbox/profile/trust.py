"""Which projects the user trusts, and what one that is not trusted may say.

A project's file comes with a clone or a download: it is hostile input. Until `sandbox profile
trust` it may only narrow what the profile that would be used without it, "default", grants;
each row of the settings table has a predicate for that (`sandbox.profile.narrows`). Also what
it extends counts as its own wish: else it could choose the widest of the user's profiles.

Trust is kept by the real path of the project's file and the SHA-256 of every file that the
project brings. The user's own and built-in profiles, which it extends by name, are not part of
it: whoever changes those is the user. One record for each project, in the state directory,
which compiled plans protect from payloads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sandbox import paths
from sandbox.errors import ProfileError, SandboxError, TrustError
from sandbox.profile import files, merge, narrows
from sandbox.profile.build import build, value_of
from sandbox.profile.document import Document
from sandbox.profile.model import Mount, Profile
from sandbox.profile.settings import BY_KEY, SETTINGS
from sandbox.words import printable, quote

if TYPE_CHECKING:
    from sandbox.profile.loader import Loader, Project

__all__ = ["Review", "admit", "review", "trust", "untrust"]

_State = Literal["trusted", "changed", "unknown"]


class Review(NamedTuple):
    """What `sandbox profile trust` is about.

    file, directory  the project's file and directory, real paths
    digests          SHA-256 of every file that trust covers, by path
    widens           what the project asks for beyond the default profile; messages of one or more lines
    state            "trusted"; "changed" since it was trusted; or "unknown"
    """

    file: str
    directory: str
    digests: Mapping[str, str]
    widens: tuple[str, ...]
    state: str


def review(path: str | None = None, *, cwd: str | None = None) -> Review:
    """Look at the project in *path* (a directory or its file), or the one that *cwd* is in.

    Raises:
        ProfileError: there is none, or its file is wrong.
    """
    loader, project = _find(path, cwd)
    digests = _digests(project)
    state = _state(project.file, digests)
    return Review(project.file, project.directory, digests, tuple(_widens(loader, project)), state)


def trust(path: str | None = None, *, cwd: str | None = None) -> Review:
    """Trust the project as it now is; what was trusted is returned, with the state it had before.

    Raises:
        ProfileError: there is none, or its file is wrong.
        SandboxError: the record can't be written.
    """
    found = review(path, cwd=cwd)
    accept(found)
    return found


def accept(found: Review) -> None:
    """Trust what was reviewed, and not what may be in the files by now.

    Raises:
        SandboxError: the record can't be written.
    """
    import json

    record = json.dumps({"path": found.file, "files": dict(found.digests)}, indent=1, sort_keys=True)
    try:
        _write(_record(found.file), record.encode() + b"\n")
    except OSError as error:
        raise SandboxError(
            f"cannot keep the trust in {error.filename or _directory()}: {error.strerror}",
            f"ls -ld {quote(_directory())}    (it must be yours and writable, on a disk with room)",
        ) from error


def untrust(path: str | None = None, *, cwd: str | None = None) -> bool:
    """Forget the trust in the project of *path* or *cwd*, or in a file that is gone; whether there was any.

    Raises:
        ProfileError: no such project.
        SandboxError: the record can't be removed.
    """
    file = None
    if path is not None:
        file = os.path.realpath(os.path.join(cwd or "", os.path.expanduser(path)))
        for name in ("", "/sandbox.toml", "/pyproject.toml"):
            if os.path.lexists(_record(file + name)):
                file += name
                break
        else:
            file = None
    if file is None:
        file = _find(path, cwd)[1].file
    try:
        os.unlink(_record(file))
    except FileNotFoundError:
        return False
    except OSError as error:
        mend = f"ls -ld {quote(_directory())}    (it must be yours and writable)"
        raise SandboxError(f"cannot remove {error.filename}: {error.strerror}", mend) from error
    return True


def admit(loader: Loader, project: Project) -> None:
    """Let *project* be used: as it is when it is trusted, else only when it narrows.

    Raises:
        TrustError: it is not trusted and asks for more.
    """
    record = _record(project.file)
    loader.looked.append(record)
    # Most projects have never been trusted: then there is nothing to compare with.
    state = _state(project.file, _digests(project)) if os.path.lexists(record) else "unknown"
    if state == "trusted":
        for document in project.layers:
            document.hostile = False
        return
    reasons = list(_widens(loader, project))
    if reasons:
        raise TrustError(_message(loader, project, reasons, state), _mend(loader, project))


def _message(loader: Loader, project: Project, reasons: Sequence[str], state: _State) -> str:
    name = printable(loader.shown(project.file))
    why = "has changed since it was trusted" if state == "changed" else "is not trusted"
    more = len(reasons) - 1
    also = f"\n  and {more} more like this: sandbox profile trust lists them" if more else ""
    return f"{reasons[0]}{also}\n  {name} {why}, so that it may only narrow the default profile"


def _mend(loader: Loader, project: Project) -> str:
    where = project.directory
    here = "" if os.path.realpath(loader.cwd) == where else f" {where}"
    return f"sandbox profile trust{here} (when you have read it), or sandbox run -p default"


def _find(path: str | None, cwd: str | None) -> tuple[Loader, Project]:
    from sandbox.profile.loader import Loader

    if path is None:
        loader = Loader(cwd)
        project = loader.project()
        if project is None:
            raise ProfileError(
                f"there is no sandbox.toml in {printable(loader.cwd)} or above", "sandbox profile new"
            )
        return loader, project
    target = os.path.realpath(os.path.join(cwd or "", os.path.expanduser(path)))
    directory = target if os.path.isdir(target) else os.path.dirname(target)
    loader = Loader(directory)
    project = loader.project()
    if project is None or project.directory != directory or target not in (directory, project.file):
        raise ProfileError(
            f"{printable(path)} is not a project's sandbox.toml, or pyproject.toml with [tool.sandbox]",
            "name the directory of one, or make one: sandbox profile new",
        )
    return loader, project


# --- what an untrusted project asks for ----------------------------------------------------------------


def _widens(loader: Loader, project: Project) -> Iterator[str]:
    """Why the project is more than narrowing: a message for each row."""
    before, after = merge.Merged(), merge.Merged()
    for document in loader.layers("default"):
        merge.apply(before, document, merge.read(document))
    for document in project.layers:
        merge.apply(after, document, merge.read(document))
    context = narrows.Context(
        build(before),
        build(after),
        project.directory,
        os.path.realpath(loader.cwd),
        os.path.realpath(paths.home()),
    )
    for setting in SETTINGS:
        if setting.key == "mounts":
            yield from _widened_mounts(context, project, after)
            continue
        old, new = value_of(context.before, setting), value_of(context.after, setting)
        row = after.rows.get(setting.key)
        if old == new and not (row and row.document.hostile and _is_place(setting.key, new)):
            continue
        if not setting.narrows(old, new, context):
            reason = f"{setting.key} {_difference(setting.key, old, new)}"
            yield _where(project, after, setting.key, None, reason)


def _is_place(key: str, value: Any) -> bool:
    """Whether the same text is another place, because a project's paths start from its own directory."""
    return (key == "root.from" and value.startswith("dir:")) or (key == "root.layers" and bool(value))


_UNLIMITED = {
    "limits.memory": ": without one it can hold half of the machine's memory in files",
    "limits.disk": ": without one it can hold what limits.memory says, or half of the machine's memory",
}


def _difference(key: str, old: Any, new: Any) -> str:
    """What *new* has beyond *old*, in words."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        added = [value for value in new if value not in old]
        lost = [value for value in old if value not in new]
        if added:
            return f"takes in {_toml(key, added)}, which the default profile does not"
        return f"lacks {_toml(key, lost)}, which the default profile has"
    if old is None:
        return f"= {_toml(key, new)} would widen the default profile, which has none{_UNLIMITED.get(key, '')}"
    return f"= {_toml(key, new)} would widen the default profile, which has {_toml(key, old)}"


def _toml(key: str, value: Any) -> str:
    from sandbox.profile.text import toml_value

    return "none" if value is None else toml_value(BY_KEY[key].kind.dump(value))


def _widened_mounts(context: narrows.Context, project: Project, after: merge.Merged) -> Iterator[str]:
    old, new = _by_place(context.before, context), _by_place(context.after, context)
    for place in dict.fromkeys((*new, *old)):
        for was, now in _pairs(old.get(place, []), new.get(place, [])):
            why = narrows.mount(was, now, context)
            if len(old.get(place, [])) > 1:
                # It can't be used until one of the two is gone: not for the project to choose.
                why = "that has two mounts there"
            if why:
                name = (now or was).destination  # type: ignore[union-attr]  # one of them is there
                reason = f'mounts."{name}" would widen the default profile: {why}'
                yield _where(project, after, "mounts", name, reason)


def _pairs(old: Sequence[Mount], new: Sequence[Mount]) -> Iterator[tuple[Mount | None, Mount | None]]:
    """What may have become what at one place. Two mounts there are refused later; all are looked at."""
    if old != new:
        nothing: tuple[None] = (None,)
        yield from ((was, now) for was in old or nothing for now in new or nothing)


def _by_place(profile: Profile, context: narrows.Context) -> dict[str, list[Mount]]:
    """Mounts by the path that they are on."""
    found: dict[str, list[Mount]] = {}
    for mount in profile.mounts:
        found.setdefault(narrows.place_of(mount, context), []).append(mount)
    return found


def _where(project: Project, after: merge.Merged, key: str, name: str | None, message: str) -> str:
    """*message* with the project's line that leads to it: the row itself, or `extends`."""
    row = after.rows.get(key) if name is None else after.table(key).get(name)
    if row is None and name is None:
        row = next((each for each in after.table(key).values() if each.document.hostile), None)
    if row is not None and row.document.hostile:
        return row.document.where(row.path, message)
    document: Document = project.layers[-1]
    if row is not None:
        message += f" ({row.document.origin(row.path)})"
    # A row that is gone was taken away with false: its key still stands in one of the project's files.
    path: tuple[str, ...] = (*key.split("."), *([name] if name else []))
    for each in project.layers:
        if each.hostile and each.has(path):
            return each.where(path, message)
    return document.where(("extends",), message)


# --- records ---------------------------------------------------------------------------------------------


def _digests(project: Project) -> dict[str, str]:
    import hashlib

    return {path: hashlib.sha256(data).hexdigest() for path, data in project.contents.items()}


def _directory() -> str:
    return os.path.join(paths.state_dir(), "trust")


def _record(file: str) -> str:
    """The record of a project's file. Named by a digest, since a path can be longer than a name."""
    import hashlib

    return os.path.join(_directory(), hashlib.sha256(os.fsencode(file)).hexdigest() + ".json")


def _state(file: str, digests: Mapping[str, str]) -> _State:
    """What the record of *file* says about *digests*. One that others could write says nothing."""
    import json

    try:
        data, status = files.read(_record(file), os.O_NOFOLLOW)
        record = json.loads(data)
    except (OSError, ValueError):
        return "unknown"
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        return "unknown"
    if not isinstance(record, dict) or record.get("path") != file:
        return "unknown"
    return "trusted" if record.get("files") == digests else "changed"


def _write(path: str, data: bytes) -> None:
    """Atomically, 0600, in a directory 0700."""
    directory = os.path.dirname(path)
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    temporary = os.path.join(directory, f".{os.getpid()}-{os.urandom(6).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    holder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(holder)
    finally:
        os.close(holder)
