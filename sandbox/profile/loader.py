"""From a name to a profile: lookup, `extends`, overrides, and the gate that project files pass.

    -p NAME       the user's profiles/NAME.toml, else the built-in NAME
    -p ./x.toml   that file (whatever has a "/" in it or ends with .toml)
    no -p         the nearest project file above the working directory, else "default"

A project's file is the nearest `sandbox.toml`, or `pyproject.toml` with a [tool.sandbox] table,
from the working directory upwards, but never in the home directory or the root, nor above.
It extends "default" where it does not say what; it is hostile until it is trusted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from sandbox import paths
from sandbox.errors import ProfileError
from sandbox.profile import files, merge
from sandbox.profile.build import build, check
from sandbox.profile.document import MAX_DEPTH, Document, Path, parse
from sandbox.profile.kinds import nearest
from sandbox.profile.model import Origin, Profile
from sandbox.words import printable, quote

__all__ = ["Given", "Loader", "Project", "from_dict", "load", "names"]

#: How deep `extends` may go, and how many files it may lead to.
MAX_CHAIN = 16
MAX_FILES = 64

DEFAULT = "default"
_PROJECT_FILES = ("sandbox.toml", "pyproject.toml")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Given(NamedTuple):
    """An override with the name of what gave it, as "option --memory"."""

    value: object
    origin: Origin


#: The key of an override that names the files which overrides were read from.
READ = "@read"


class Project(NamedTuple):
    """A project's profile as read: `directory` is a real path, `contents` of all files it brings."""

    file: str
    directory: str
    layers: Sequence[Document]
    contents: Mapping[str, bytes]


def load(name: str | None, overrides: Mapping[str, object] = {}, *, cwd: str | None = None) -> Profile:
    """Find, read, merge and check a profile.

    Args:
        name: a name or a path; None for the project's, else "default".
        overrides: by dotted key ("limits.memory", 'mounts."/work"', "env.extend-keep"), or by table; as
            written in TOML, or `Given` with an origin.
        cwd: where relative paths start, the caller's working directory if None.

    Raises:
        ProfileError: it does not exist, or is wrong; with file, line and column.
        TrustError: it is a project's own, not trusted, and asks for more than the profile without it has.
        NotAvailableError: it uses something whose mechanism is not built yet.
    """
    loader = Loader(cwd)
    merged = merge.Merged()
    project = loader.project() if name is None else None
    if project is not None:
        from sandbox.profile import trust

        trust.admit(loader, project)
        layers = project.layers
        shown = project.file
    else:
        shown = DEFAULT if name is None else name
        layers = loader.layers(shown)
    for document in layers:
        merge.apply(merged, document, merge.read(document))
    return loader.finish(merged, shown, overrides)


def from_dict(data: Mapping[str, object], *, cwd: str | None = None) -> Profile:
    """A profile from what a TOML file would hold; `extends` names profiles as in a file of the user's.

    Raises:
        ProfileError, NotAvailableError: as `load`.
    """
    loader = Loader(cwd)
    document = Document("from_dict", dict(data))
    check_shape(document)
    merged = merge.Merged()
    for each in loader.above(document, "from_dict"):
        merge.apply(merged, each, merge.read(each))
    return loader.finish(merged, "", {})


def names() -> dict[str, list[str]]:
    """The files of each profile name, the one that is used first."""
    found: dict[str, list[str]] = {}
    for directory in (_user_profiles(), paths.configs()):
        try:
            entries = sorted(os.listdir(directory))
        except OSError:
            continue
        for entry in entries:
            if entry.endswith(".toml") and _NAME.fullmatch(entry[:-5]):
                found.setdefault(entry[:-5], []).append(os.path.join(directory, entry))
    return found


def _user_profiles() -> str:
    return os.path.join(paths.config_dir(), "profiles")


def is_path(name: str) -> bool:
    """Whether a profile is meant by its path and not by its name."""
    return "/" in name or name.endswith(".toml")


def check_name(name: str) -> None:
    """Raise `ProfileError` for what can't be the name of a profile."""
    if not _NAME.fullmatch(name):
        shown = printable(name)
        raise ProfileError(
            f'"{shown}" is not the name of a profile; a file is named by its path, as in "./{shown}.toml"',
            "sandbox profile list",
        )


class Loader:
    """One call of `load`: remembers what was read and looked for."""

    def __init__(self, cwd: str | None = None) -> None:
        self.cwd = _working_directory() if cwd is None else os.path.join(_working_directory(), cwd)
        self.files: list[str] = []
        self.looked: list[str] = []
        self.contents: dict[str, bytes] = {}

    def finish(self, merged: merge.Merged, name: str, overrides: Mapping[str, object]) -> Profile:
        """Put *overrides* on top, check, build."""
        if overrides:
            document = _override_document(overrides)
            self.files += document.files
            merge.apply(merged, document, merge.read(document))
        check(merged)
        return build(merged, name, self.files, self.looked)

    # --- layers ------------------------------------------------------------------------------------

    def layers(self, name: str) -> list[Document]:
        """The documents of profile *name*, lowest first."""
        return _Extends(self).of(self.find(name))

    def above(self, document: Document, name: str, *, default: Sequence[str] = ()) -> list[Document]:
        """The documents that *document* extends, lowest first, and itself."""
        return _Extends(self, default).of(document)

    def find(self, name: str, *, skip: str = "") -> Document:
        """The document of a profile that a user names; *skip* is a user's file that extends its own name."""
        if is_path(name):
            path = os.path.normpath(os.path.join(self.cwd, _expand(name)))
            return self.read(path, f"there is no profile {printable(name)}")
        check_name(name)
        own = os.path.join(_user_profiles(), f"{name}.toml")
        if own != skip:
            self.looked.append(own)
            if self._is_there(own):
                return self.read(own)
        built_in = os.path.join(paths.configs(), f"{name}.toml")
        if os.path.exists(built_in):
            return self.read(built_in)
        known = names()
        hint = nearest(name, known) or f"; there are {', '.join(sorted(known))}"
        raise ProfileError(f'there is no profile "{name}"{hint}', "sandbox profile list")

    def _is_there(self, path: str) -> bool:
        """Whether the user has this profile. One in a closed directory of the user's own may be there, and
        tighter than the built-in one that would be used instead; another user's is none."""
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            closed = files.blocked(path)
            if closed and not files.is_ours(closed):
                return False
            shown = printable(self.shown(path))
            raise ProfileError(
                f"cannot look for the profile {shown}: {error.strerror}", files.opening(path)
            ) from None
        return True

    def read(self, path: str, missing: str = "") -> Document:
        """Read a file of the user's own or a built-in one."""
        text = self._bytes(path, missing=missing)
        return parse(text, self.shown(path), file=os.path.realpath(path))

    def shown(self, path: str) -> str:
        """How a file is called in messages: from the working directory if it is below that; built-in profiles
        are no files of the caller's, and have their whole path."""
        if path.startswith(paths.configs() + "/"):
            return path
        below = self.cwd.rstrip("/") + "/"
        return path[len(below) :] if path.startswith(below) else path

    def _bytes(self, path: str, *, flags: int = 0, missing: str = "") -> str:
        """The text of a regular file; remembers its name and content.

        Raises:
            ProfileError: it can't be read, is no regular file, too large, or no UTF-8.
        """
        shown = printable(self.shown(path))
        try:
            data, _ = files.read(path, flags)
        except FileNotFoundError:
            if missing:
                raise ProfileError(missing, "sandbox profile list") from None
            mend = "sandbox profile list    or sandbox profile new, for a file to start from"
            raise ProfileError(f"cannot read the profile {shown}: it does not exist", mend) from None
        except OSError as error:
            mend = files.opening(os.path.abspath(path))
            raise ProfileError(f"cannot read the profile {shown}: {error.strerror}", mend) from None
        real = os.path.realpath(path)
        self.files.append(real)
        if real != path:
            self.looked.append(path)
        self.contents[real] = data
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            mend = f"iconv -t UTF-8 {quote(path)}"
            raise ProfileError(f"{shown}:{line}: not UTF-8, in which TOML is written", mend) from None

    # --- projects ----------------------------------------------------------------------------------

    def project(self) -> Project | None:
        """The nearest project's profile, with everything it extends.

        Raises:
            ProfileError: it is wrong, or is a file that must not count: another user's, or a link that
                leads out of its directory.
        """
        for directory in self._upwards():
            for name in _PROJECT_FILES:
                document = self._project_file(directory, name)
                if document is not None:
                    layers = self.above(document, document.source, default=(DEFAULT,))
                    brought = {each.file: self.contents[each.file] for each in layers if each.hostile}
                    return Project(document.file, directory, layers, brought)
        return None

    def _upwards(self) -> Iterator[str]:
        directory = os.path.realpath(self.cwd)
        home = os.path.realpath(paths.home())
        while directory not in (home, "/"):
            yield directory
            directory = os.path.dirname(directory)

    def _project_file(self, directory: str, name: str) -> Document | None:
        path = os.path.join(directory, name)
        self.looked.append(path)
        if not os.path.lexists(path):
            return None
        if name == "pyproject.toml" and not _mentions_us(path):
            return None
        document = self.brought(path, directory)
        if name == "pyproject.toml":
            tool = document.data.get("tool")
            table = tool.get("sandbox") if isinstance(tool, dict) else None
            if table is None:
                self.files.remove(document.file)
                return None
            document.top = ("tool", "sandbox")
            if not isinstance(table, dict):
                document.top = ()
                document.fail(("tool", "sandbox"), "[tool.sandbox] must be a table")
            document.data = table
        return document

    def brought(self, path: str, directory: str) -> Document:
        """Read a file that a project in *directory* (a real path) brings: hostile until it is trusted."""
        real = os.path.realpath(path)
        mend = "sandbox run -p default, which leaves project files aside"
        if not real.startswith(directory + "/"):
            self._refuse(path, "leads out of the project", mend)
        try:
            status = os.stat(real)
        except OSError as error:
            self._refuse(path, f"can't be read: {error.strerror}", mend)
        if status.st_uid not in (0, os.geteuid()):
            self._refuse(path, "belongs to another user", mend)
        text = self._bytes(real, flags=os.O_NOFOLLOW)
        document = parse(text, self.shown(path), file=real, base=directory)
        document.hostile = True
        return document

    def _refuse(self, path: str, why: str, mend: str) -> NoReturn:
        raise ProfileError(f"the project's {printable(self.shown(path))} {why}", mend)


def _mentions_us(path: str) -> bool:
    """Whether a pyproject.toml may have a table of ours: few have, and parsing all would cost."""
    try:
        data, _ = files.read(path)
    except OSError:
        return False
    return b"sandbox" in data and b"tool" in data


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise ProfileError(
            f"there is no working directory: {error.strerror}", "cd to a directory that exists"
        ) from None


def _expand(path: str) -> str:
    return paths.home().rstrip("/") + path[1:] or "/" if path == "~" or path.startswith("~/") else path


class _Extends:
    """Puts what a document extends below it. One that is reached twice counts once, where it was first:
    else a common ancestor would undo what the first of two parents changed."""

    def __init__(self, loader: Loader, default: Sequence[str] = ()) -> None:
        self.loader = loader
        self.default = default
        self.found: list[Document] = []
        self.done: set[str] = set()

    def of(self, document: Document) -> list[Document]:
        self._add(document, (document.source,), self.default)
        return self.found

    def _add(self, document: Document, chain: tuple[str, ...], default: Sequence[str]) -> None:
        for name, path in _parents(document) or [(name, ()) for name in default]:
            parent = self._find(document, name, path)
            if parent.file in self.done:
                continue
            links = (*chain, parent.source)
            if parent.source in chain:
                document.fail(path, f"extends goes round in a circle: {' → '.join(map(printable, links))}")
            if len(links) > MAX_CHAIN or len(self.found) + len(links) > MAX_FILES:
                document.fail(
                    path, f"extends leads to more than {MAX_CHAIN} files in a row, or {MAX_FILES} in all"
                )
            self._add(parent, links, ())
        self.found.append(document)
        self.done.add(document.file or document.source)

    def _find(self, document: Document, name: str, path: Path) -> Document:
        try:
            if not is_path(name):
                own = document.file if os.path.basename(document.file) == f"{name}.toml" else ""
                return self.loader.find(name, skip=own)
            directory = os.path.dirname(document.file) if document.file else self.loader.cwd
            if document.hostile:
                return self._brought(document, name, path)
            return self.loader.find(os.path.join(directory, _expand(name)))
        except ProfileError as error:
            if not path or "\n" in error.message or error.message.startswith(printable(document.source)):
                raise
            document.fail(path, error.message, error.mend)

    def _brought(self, document: Document, name: str, path: Path) -> Document:
        """Another file of a project: only below its directory, and named from there."""
        directory = document.base or ""
        target = os.path.normpath(os.path.join(os.path.dirname(document.file), name))
        if name.startswith(("/", "~")) or not target.startswith(directory + "/"):
            document.fail(path, "a project can only extend profiles by name, and files of its own directory")
        return self.loader.brought(target, directory)


def _parents(document: Document) -> list[tuple[str, Path]]:
    """What *document* extends, with the place where it says so."""
    value: Any = document.data.get("extends")
    if value is None:
        return []
    if isinstance(value, str):
        return [(value, ("extends",))]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        document.fail(("extends",), 'extends must be a name, or a list of names, as in ["base", "mine"]')
    if len(value) > MAX_FILES:
        document.fail(("extends",), f"extends names more than {MAX_FILES} profiles")
    return [(each, ("extends", number)) for number, each in enumerate(value)]


# --- overrides -----------------------------------------------------------------------------------------


class _Overrides(Document):
    """What options or arguments set, as a document whose places are their names."""

    def __init__(self) -> None:
        super().__init__("argument overrides", {})
        self.given: dict[Path, Given] = {}
        self.files: list[str] = []

    def origin(self, path: Path) -> Origin:
        given = self._given(path)
        return given.origin if given else Origin(self.source)

    def where(self, path: Path, message: str, *, key: bool = False) -> str:
        return f"{printable(str(self.origin(path)))}: {printable(message)}"

    def _given(self, path: Path) -> Given | None:
        while path:
            if path in self.given:
                return self.given[path]
            path = path[:-1]
        return None


_PART = re.compile(r'"((?:[^"\\]|\\.)*)"|([^".]+)')
#: keys whose option and argument are called by their table
_BY_TABLE = {"net.mode": "net", "root.from": "root", "user.map": "user"}


def _override_document(overrides: Mapping[str, object]) -> _Overrides:
    document = _Overrides()
    data: dict[str, Any] = {}
    for key, each in overrides.items():
        if key == READ and isinstance(each, list):
            document.files += each
            continue
        path = split_key(key)
        given = (
            each
            if isinstance(each, Given)
            else Given(each, Origin(f"argument {_BY_TABLE.get(key, path[-1])}"))
        )
        document.given[path] = given
        _put(document, data, path, given.value)
    document.data = data
    check_shape(document)
    return document


def check_shape(document: Document) -> None:
    """Refuse what no TOML file could hold: keys that are no texts, and nesting without end.

    Raises:
        ProfileError: there is such a thing.
    """
    level: list[Any] = [document.data]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, Mapping):
                for key in each:
                    if not isinstance(key, str):
                        document.fail((), f"keys are texts, and {printable(repr(key))} is none")
                inner += each.values()
            elif isinstance(each, list | tuple):
                inner += each
        level = [each for each in inner if isinstance(each, Mapping | list | tuple)]
    if level:
        document.fail((), "nested too deeply")


def _put(document: Document, data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    table = data
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            document.fail(path, f"{'.'.join(path)} is set twice, in two ways")
        table = inner
    value = dict(value) if isinstance(value, Mapping) else value
    old = table.get(path[-1])
    if isinstance(old, dict) and isinstance(value, dict) and not old.keys() & value.keys():
        old.update(value)
    elif path[-1] in table:
        document.fail(path, f"{'.'.join(path)} is set twice")
    else:
        table[path[-1]] = value


def split_key(key: str) -> tuple[str, ...]:
    """The parts of a dotted key, in which parts may be quoted: 'mounts."/a.b"' is ("mounts", "/a.b").

    Raises:
        ProfileError: it is no such key.
    """
    parts, at = [], 0
    while match := _PART.match(key, at):
        quoted, bare = match.groups()
        parts.append(bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        at = match.end()
        if at == len(key):
            return tuple(parts)
        if key[at] != ".":
            break
        at += 1
    raise ProfileError(f'{printable(key)!r} is not a key, as in "limits.memory" or \'mounts."/work"\'')


def quote_key(part: str) -> str:
    """*part* as `split_key` reads it."""
    return '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
