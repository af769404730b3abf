"""A build in TOML:

    [build]
    from = "debian:12"
    args = { VERSION = "1.2" }                       # --build-arg sets them
    steps = [
      { run = "apt-get update && apt-get install -y gcc" },
      { run = "pip install -r req.txt", mounts = [{ type = "cache", target = "/root/.cache" }] },
      { workdir = "/src" },
      { copy = ["src/", "Makefile"], to = "./" },
      { run = ["make", "VERSION=$VERSION"] },
      { write = "built from TOML\\n", to = "/etc/motd" },
      { copy = "/out/tool", from = "tools", to = "/usr/bin/", mode = "0755" },
    ]
    cmd = ["/usr/bin/tool"]

    [build.stage.tools]                              # any number, used by their names
    from = "golang:1.22"
    steps = [...]

Variables are filled in where a Containerfile has them, in the same forms; quotes are characters like any
other, for TOML has its own. What `write` writes is taken as it stands. Unknown keys are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sandbox.errors import ProfileError
from sandbox.image.build import steps, template
from sandbox.image.build.containerfile import MOST
from sandbox.image.build.place import Place
from sandbox.image.build.runflags import check_mount
from sandbox.image.build.template import Template
from sandbox.profile.document import Document
from sandbox.profile.document import Path as Key
from sandbox.profile.document import parse as parse_toml
from sandbox.profile.kinds import nearest

__all__ = ["parse"]

_STAGE = re.compile(r"[a-z][a-z0-9._-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: what a step does, with the keys that may stand beside
_VERBS: Mapping[str, tuple[str, ...]] = {
    "run": ("mounts", "network"),
    "copy": ("to", "from", "owner", "mode", "exclude", "parents"),
    "add": ("to", "owner", "mode", "exclude", "unpack", "checksum"),
    "write": ("to", "owner", "mode"),
    "args": (),
    "env": (),
    "labels": (),
    "workdir": (),
    "user": (),
    "shell": (),
}
#: what the image says at the end of a stage
_ENDS = ("entrypoint", "cmd", "expose", "volumes", "labels", "stop_signal", "healthcheck")
_STAGE_KEYS = ("from", "platform", "steps", *_ENDS)


def parse(source: str, data: bytes) -> steps.Recipe:
    """The build that the TOML file *source* with the content *data* describes.

    Raises:
        ProfileError: it is no TOML, or wrong, with file, line and column.
        BuildError: a word in it is wrong.
    """
    if len(data) > MOST:
        Place(source, "", 0, 0).fail(f"it has more than {MOST >> 20} MiB: that is no file of build steps")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ProfileError(f"{source} is not UTF-8") from None
    return _File(parse_toml(text, source)).recipe()


class _File:
    def __init__(self, document: Document) -> None:
        self._document = document

    def recipe(self) -> steps.Recipe:
        top = self._document.data
        self._known((), top, ("build", "schema"))
        if top.get("schema", 1) != 1:
            self._document.fail(("schema",), "there is only schema 1")
        if "build" not in top:
            self._document.fail((), "there is no [build]", '[build]\nfrom = "debian:12"')
        build = self._table(("build",))
        self._known(("build",), build, (*_STAGE_KEYS, "args", "stage"))
        args = list(self._args(("build", "args"), "ARG") if "args" in build else ())
        names = [pair[0] for arg in args for pair in arg.pairs]
        stages = []
        if "stage" in build:
            for name in self._table(("build", "stage")):
                path: Key = ("build", "stage", name)
                if not _STAGE.fullmatch(name) or name in ("scratch", "context"):
                    self._document.fail(path, f"{name!r} is no name for a stage", key=True)
                self._known(path, self._table(path), _STAGE_KEYS)
                stages.append(self._stage(path, name, names))
        stages.append(self._stage(("build",), "", names))
        return steps.Recipe(tuple(args), tuple(stages), ordered=False)

    def _stage(self, path: Key, name: str, args: list[Template]) -> steps.Stage:
        table = self._table(path)
        if "from" not in table:
            self._document.fail(path, "it does not say what it begins with", 'from = "debian:12"')
        place = self._place((*path, "from"))
        found: list[steps.Step] = []
        if args:
            text = f"ARG {' '.join(map(str, (arg[0] for arg in args)))}"
            found.append(steps.Arg(place, text, tuple((arg, None) for arg in args)))
        listed = table.get("steps", [])
        if not isinstance(listed, list):
            self._document.fail((*path, "steps"), "steps is a list of tables")
        for number in range(len(listed)):
            found += self._step((*path, "steps", number))
        for key in _ENDS:
            if key in table:
                found += self._end((*path, key), key)
        platform = self._word((*path, "platform")) if "platform" in table else None
        return steps.Stage(place, name, self._word((*path, "from")), platform, tuple(found))

    # --- steps ----------------------------------------------------------------------------------------

    def _step(self, path: Key) -> Iterator[steps.Step]:
        table = self._table(path)
        verbs = [key for key in table if key in _VERBS]
        if len(verbs) != 1:
            unknown = next((key for key in table if key not in _VERBS), None)
            if not verbs and unknown:
                self._document.fail(
                    (*path, unknown), f"unknown step {unknown!r}{nearest(unknown, _VERBS)}", key=True
                )
            wrong = f"a step does one thing: one of {', '.join(_VERBS)}"
            self._document.fail(path, wrong)
        verb = verbs[0]
        self._known(path, table, (verb, *_VERBS[verb]))
        readers: dict[str, Callable[[Key], Iterator[steps.Step]]] = {
            "run": self._run,
            "copy": self._copy,
            "add": self._copy,
            "write": self._write,
            "args": lambda path: self._args((*path, "args"), "ARG"),
            "env": lambda path: self._env((*path, "env")),
            "labels": lambda path: self._labels((*path, "labels")),
            "workdir": self._workdir,
            "user": self._user,
            "shell": self._shell,
        }
        yield from readers[verb](path)

    def _run(self, path: Key) -> Iterator[steps.Step]:
        table = self._table(path)
        command, shell = self._command((*path, "run"))
        if not any(command):
            self._document.fail((*path, "run"), "there is no command")
        network = self._text((*path, "network")) if "network" in table else ""
        if network not in ("", "none", "default"):
            self._document.fail((*path, "network"), 'network is "none" or "default"')
        mounts = tuple(self._mounts((*path, "mounts"))) if "mounts" in table else ()
        text = f"RUN {command[0] if shell else json.dumps(command, ensure_ascii=False)}"
        script = shell and command[0].startswith("#!")
        yield steps.Run(self._place(path), text, command, shell, script, mounts, network)

    def _mounts(self, path: Key) -> Iterator[steps.Mounted]:
        listed = self._value(path)
        if not isinstance(listed, list):
            self._document.fail(path, "mounts is a list of tables")
        for number in range(len(listed)):
            options: dict[str, Template] = {}
            kind = "bind"
            for name, value in self._table((*path, number)).items():
                if name == "type":
                    kind = self._text((*path, number, name))
                elif isinstance(value, bool):
                    options[name] = ("true" if value else "false",)
                elif isinstance(value, int):
                    options[name] = (str(value),)
                else:
                    options[name] = self._word((*path, number, name))
            yield check_mount(kind, options, self._place((*path, number)))

    def _copy(self, path: Key) -> Iterator[steps.Step]:
        table = self._table(path)
        verb = "copy" if "copy" in table else "add"
        sources = self._words((*path, verb))
        target = self._word(self._required(path, "to"))
        origin = self._text((*path, "from")) if "from" in table else ""
        checksum = self._text((*path, "checksum")) if "checksum" in table else ""
        if checksum and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
            self._document.fail((*path, "checksum"), "a checksum is sha256: and 64 hexadecimal digits")
        exclude = self._words((*path, "exclude")) if "exclude" in table else ()
        unpack = verb == "add" and self._flag((*path, "unpack"), table.get("unpack", True))
        yield steps.Copy(
            self._place(path),
            self._shown(verb.upper(), table, verb, origin),
            sources,
            target,
            origin,
            *self._ownership(path),
            unpack,
            (),
            exclude,
            self._flag((*path, "parents"), table.get("parents", False)),
            checksum,
        )

    def _write(self, path: Key) -> Iterator[steps.Step]:
        target = self._word(self._required(path, "to"))
        if str(self._value((*path, "to"))).endswith("/"):
            self._document.fail((*path, "to"), "it names a directory, and not the file to write")
        content = steps.Inline("content", template.literal(self._text((*path, "write"))))
        text = self._shown("WRITE", self._table(path), "", "")
        owner, mode = self._ownership(path)
        yield steps.Copy(self._place(path), text, (), target, "", owner, mode, False, (content,))

    def _ownership(self, path: Key) -> tuple[Template | None, Template | None]:
        table = self._table(path)
        found = [self._word((*path, key)) if key in table else None for key in ("owner", "mode")]
        return found[0], found[1]

    def _shown(self, verb: str, table: Mapping[str, Any], key: str, origin: str) -> str:
        """As a Containerfile would write it."""
        sources = table.get(key, [])
        sources = [sources] if isinstance(sources, str) else sources
        flags = [f"--from={origin}"] if origin else []
        flags += [
            f"--{flag}={table[name]}"
            for name, flag in (("owner", "chown"), ("mode", "chmod"))
            if name in table
        ]
        return " ".join((verb, *flags, *map(str, sources), str(table["to"])))

    def _args(self, path: Key, word: str) -> Iterator[steps.Arg]:
        pairs: list[tuple[Template, Template | None]] = []
        shown = [word]
        for name, value in self._table(path).items():
            self._check_name((*path, name), name)
            given = value is not False  # false: it has no value of its own
            pairs.append(((name,), self._word((*path, name)) if given else None))
            shown.append(f"{name}={value}" if given else name)
        yield steps.Arg(self._place(path), " ".join(shown), tuple(pairs))

    def _env(self, path: Key) -> Iterator[steps.Step]:
        pairs = tuple(self._pairs(path, check=True))
        yield steps.Env(self._place(path), f"ENV {self._assignments(path)}", pairs)

    def _labels(self, path: Key) -> Iterator[steps.Step]:
        yield steps.Label(self._place(path), f"LABEL {self._assignments(path)}", tuple(self._pairs(path)))

    def _pairs(self, path: Key, *, check: bool = False) -> Iterator[tuple[Template, Template]]:
        for name in self._table(path):
            if check:
                self._check_name((*path, name), name)
            yield template.literal(name), self._word((*path, name))

    def _check_name(self, path: Key, name: str) -> None:
        if not _NAME.fullmatch(name):
            self._document.fail(path, f"{name!r} is no name of a variable", key=True)

    def _assignments(self, path: Key) -> str:
        return " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}"
                        for name, value in self._table(path).items())  # fmt: skip

    def _workdir(self, path: Key) -> Iterator[steps.Step]:
        text = self._text((*path, "workdir"))
        yield steps.Workdir(self._place(path), f"WORKDIR {text}", self._word((*path, "workdir")))

    def _user(self, path: Key) -> Iterator[steps.Step]:
        text = self._text((*path, "user"))
        yield steps.User(self._place(path), f"USER {text}", self._word((*path, "user")))

    def _shell(self, path: Key) -> Iterator[steps.Step]:
        command, shell = self._command((*path, "shell"))
        if shell or not command:
            self._document.fail((*path, "shell"), 'shell is a list: ["/bin/sh", "-c"]')
        yield steps.Shell(self._place(path), f"SHELL {json.dumps(command)}", command)

    def _end(self, path: Key, key: str) -> Iterator[steps.Step]:
        place = self._place(path)
        if key in ("entrypoint", "cmd"):
            command, shell = self._command(path)
            kind = steps.Entrypoint if key == "entrypoint" else steps.Cmd
            said = command[0] if shell else json.dumps(command, ensure_ascii=False)
            yield kind(place, f"{key.upper()} {said}", command, shell)
        elif key == "labels":
            yield from self._labels(path)
        elif key == "stop_signal":
            yield steps.StopSignal(place, f"STOPSIGNAL {self._text(path)}", self._word(path))
        elif key == "healthcheck":
            command, shell = self._command(path)
            test = ["CMD-SHELL" if shell else "CMD", *command]
            yield steps.Healthcheck(place, f"HEALTHCHECK CMD {command}", {"Test": test})
        else:
            kinds = {"expose": steps.Expose, "volumes": steps.Volume}
            shown = json.dumps(self._value(path), ensure_ascii=False)
            yield kinds[key](place, f"{key.upper().rstrip('S')} {shown}", self._words(path))

    # --- values ---------------------------------------------------------------------------------------

    def _place(self, path: Key) -> Place:
        return Place(self._document.source, self._document.text, *self._document.span(path))

    def _value(self, path: Key) -> Any:
        value: Any = self._document.data
        for key in path:
            value = value[key]
        return value

    def _table(self, path: Key) -> Mapping[str, Any]:
        value = self._value(path)
        if not isinstance(value, dict):
            self._document.fail(path, "it is a table")
        return value

    def _known(self, path: Key, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                self._document.fail((*path, key), f"unknown key {key!r}{nearest(key, known)}", key=True)

    def _required(self, path: Key, key: str) -> Key:
        if key not in self._table(path):
            self._document.fail(path, f"{key!r} is missing")
        return (*path, key)

    def _text(self, path: Key) -> str:
        value = self._value(path)
        if isinstance(value, int) and not isinstance(value, bool) and path[-1] not in ("owner", "mode"):
            return str(value)
        if not isinstance(value, str) or "\0" in value:
            self._document.fail(path, "it is a text, in quotes")
        return value

    def _flag(self, path: Key, value: object) -> bool:
        if not isinstance(value, bool):
            self._document.fail(path, "it is true or false")
        return value

    def _word(self, path: Key) -> Template:
        text = self._text(path)
        try:
            return template.read(text, quotes=False)
        except template.Bad as bad:
            self._document.fail(path, bad.message)

    def _words(self, path: Key) -> tuple[Template, ...]:
        """A text, or a list of them."""
        value = self._value(path)
        if isinstance(value, str | int):
            return (self._word(path),)
        if not isinstance(value, list) or not value:
            self._document.fail(path, "it is a text, or a list of texts")
        return tuple(self._word((*path, number)) for number in range(len(value)))

    def _command(self, path: Key) -> tuple[tuple[str, ...], bool]:
        """A command, and whether it is for a shell."""
        value = self._value(path)
        if isinstance(value, str):
            return (self._text(path),), True
        if not isinstance(value, list):
            self._document.fail(path, "a command is a text for a shell, or a list of words")
        return tuple(self._text((*path, number)) for number in range(len(value))), False
