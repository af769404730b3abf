"""The instructions of a Containerfile: their arguments become steps.

Which words have quotes and variables, and which are taken as they stand, differs from one to the next; it
is as in BuildKit's `frontend/dockerfile` (parser/line_parsers.go, instructions/parse.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from sandbox.image.build import steps, template
from sandbox.image.build.containerfile import Heredoc, logical_lines, read_document
from sandbox.image.build.line import SPACE, Flag, Line, Word, shell_words
from sandbox.image.build.place import Place
from sandbox.image.build.runflags import mount_of
from sandbox.image.build.template import Template
from sandbox.profile.kinds import nearest

__all__ = ["parse", "parse_instruction"]

_STAGE = re.compile(r"[a-z][a-z0-9._-]*")
_SECONDS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


# --- instructions -------------------------------------------------------------------------------------------


def _pairs(line: Line) -> steps.Pairs:
    """`NAME=VALUE ...`, or the old `NAME VALUE`."""
    words = shell_words(line)
    if not words:
        line.fail(f"{line.name} needs an argument: {line.name} NAME=VALUE")
    if "=" not in words[0].text:
        parts = SPACE.split(line.rest, maxsplit=1)
        if len(parts) < 2:
            line.fail(f"{line.name} needs a value: {line.name} {parts[0]}=VALUE", words[0])
        begin = line.begin + line.rest.index(parts[1], len(parts[0]))
        value = Word(parts[1], begin, begin + len(parts[1]))
        return ((line.word(words[0]), line.word(value)),)
    return tuple(_pair(line, word) for word in words)


def _pair(line: Line, word: Word) -> tuple[Template, Template]:
    name, equals, value = word.text.partition("=")
    if not equals:
        line.fail(f"{word.text!r} has no '='; it is NAME=VALUE, with quotes around blanks", word)
    if not name:
        line.fail("there is no name before '='", word)
    middle = word.begin + len(name)
    first = Word(name, word.begin, middle)
    return line.word(first), line.word(Word(value, middle + 1, max(word.end, middle + 2)))


def _env(line: Line) -> steps.Step:
    return steps.Env(line.place, line.text, _pairs(line))


def _label(line: Line) -> steps.Step:
    return steps.Label(line.place, line.text, _pairs(line))


def _arg(line: Line) -> steps.Arg:
    words = shell_words(line)
    if not words:
        line.fail("ARG needs a name")
    pairs: list[tuple[Template, Template | None]] = []
    for word in words:
        pairs.append(_pair(line, word) if "=" in word.text else (line.word(word), None))
    return steps.Arg(line.place, line.text, tuple(pairs))


def _command(line: Line) -> tuple[tuple[str, ...], bool]:
    """A command, and whether it is for a shell."""
    listed = line.list()
    if listed is not None:
        return tuple(listed), False
    return ((line.rest,) if line.rest else ()), True


def _run(line: Line) -> steps.Step:
    network = line.value("network")
    if network not in ("", "none", "default"):
        line.fail(f"--network={network} can't be; it is none or default", line.flag("network"))
    if line.value("security") not in ("", "sandbox"):
        line.fail("no step can leave its sandbox: --security is sandbox", line.flag("security"))
    mounts = tuple(
        mount_of(flag.value or "", line.at(flag.begin, flag.end), line.escape)
        for flag in line.flags
        if flag.name == "mount"
    )
    command, shell = _command(line)
    if not command or not any(command):
        line.fail("RUN needs a command")
    script = False
    if line.documents:
        command, script = _with_documents(line.rest, line.documents)
    text = line.text if not line.documents else line.text + "".join(map(_written, line.documents))
    return steps.Run(line.place, text, command, shell, script, mounts, network)


def _with_documents(command: str, documents: Sequence[Heredoc]) -> tuple[tuple[str, ...], bool]:
    """A command that is just one document is its content; with more, the shell reads them itself."""
    first = documents[0]
    alone = re.fullmatch(r"<<-?[^\s<]+|<<-?(\"[^\"]*\"|'[^']*')", command.strip())
    if not alone or len(documents) > 1:
        return (command + "".join(map(_written, documents)),), False
    return (first.content,), first.content.startswith("#!")


def _written(document: Heredoc) -> str:
    return f"\n{document.data}{document.name}"


def _copy(line: Line) -> steps.Step:
    listed = line.list()
    if listed is None:
        words = line.words()
    else:
        whole = line.whole()
        words = [Word(text, whole.begin, whole.end) for text in listed]
    documents = list(line.documents)
    sources, inline = [], []
    for word in words[:-1]:
        document = None
        if documents and re.match(r"\d*<<", word.text):
            document = documents.pop(0)
        if document is None:
            sources.append(line.word(word))
            continue
        quotes = template.literal(document.content) if document.quoted else _content(line, document)
        inline.append(steps.Inline(document.name, quotes))
    if documents or not words or not (sources or inline):
        line.fail(f"{line.name} needs a source and a destination: {line.name} SOURCE... DESTINATION")
    checksum = line.value("checksum")
    if checksum and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
        line.fail("--checksum is sha256: and 64 hexadecimal digits", line.flag("checksum"))
    source = line.value("from")
    if "$" in source:
        line.fail("--from has no variables; give the image a name by a stage of its own", line.flag("from"))
    exclude = tuple(line.word(flag) for flag in line.flags if flag.name == "exclude")
    unpack = line.name == "ADD" and (line.flag("unpack") is None or line.is_set("unpack"))
    for name in ("link", "keep-git-dir"):
        line.is_set(name)
    return steps.Copy(
        line.place,
        line.text + "".join(map(_written, line.documents)),
        tuple(sources),
        line.word(words[-1]),
        source,
        line.flag_word("chown"),
        line.flag_word("chmod"),
        unpack,
        tuple(inline),
        exclude,
        line.is_set("parents"),
        checksum,
    )


def _content(line: Line, document: Heredoc) -> Template:
    """What is in a document, with its variables; quotes there are characters like any other."""
    try:
        return template.read(document.content, quotes=False)
    except template.Bad as bad:
        raise line.place.error(f"in the document {document.name}: {bad.message}") from None


def _workdir(line: Line) -> steps.Step:
    return steps.Workdir(line.place, line.text, line.word(line.whole()))


def _user(line: Line) -> steps.Step:
    return steps.User(line.place, line.text, line.word(line.whole()))


def _stop_signal(line: Line) -> steps.Step:
    return steps.StopSignal(line.place, line.text, line.word(line.whole()))


def _maintainer(line: Line) -> steps.Step:
    return steps.Maintainer(line.place, line.text, line.whole().text)


def _cmd(line: Line) -> steps.Step:
    return steps.Cmd(line.place, line.text, *_command(line))


def _entrypoint(line: Line) -> steps.Step:
    return steps.Entrypoint(line.place, line.text, *_command(line))


def _shell(line: Line) -> steps.Step:
    listed = line.list()
    if not listed:
        line.fail('SHELL needs a list of JSON: SHELL ["/bin/sh", "-c"]')
    return steps.Shell(line.place, line.text, tuple(listed or ()))


def _expose(line: Line) -> steps.Step:
    words = line.words()
    if not words:
        line.fail("EXPOSE needs a port")
    return steps.Expose(line.place, line.text, tuple(map(line.word, words)))


def _volume(line: Line) -> steps.Step:
    listed = line.list()
    whole = line.whole()
    words = line.words() if listed is None else [Word(text, whole.begin, whole.end) for text in listed]
    if not words or not all(word.text.strip() for word in words):
        line.fail("VOLUME needs a path")
    return steps.Volume(line.place, line.text, tuple(map(line.word, words)))


def _healthcheck(line: Line) -> steps.Step:
    parts = line.rest.split(None, 1)
    kind = parts[0].upper() if parts else ""
    if kind == "NONE" and len(parts) == 1:
        return steps.Healthcheck(line.place, line.text, {"Test": ["NONE"]})
    if kind != "CMD" or len(parts) < 2:
        line.fail("HEALTHCHECK is followed by CMD and a command, or by NONE")
    line.begin += line.rest.index(parts[1], len(parts[0]))
    line.rest = parts[1]
    command, shell = _command(line)
    check: dict[str, object] = {"Test": ["CMD-SHELL" if shell else "CMD", *command]}
    names = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}
    for name, key in {**names, "start-interval": "StartInterval"}.items():
        if flag := line.flag(name):
            check[key] = _duration(line, flag)
    if flag := line.flag("retries"):
        if not (flag.value or "").isdecimal() or len(flag.value or "") > 6:
            line.fail("--retries is a number", flag)
        check["Retries"] = int(flag.value or 0)
    return steps.Healthcheck(line.place, line.text, check)


def _duration(line: Line, flag: Flag) -> int:
    """Nanoseconds of "1m30s", as Go reads it."""
    value = flag.value or ""
    if len(value) > 40 or not re.fullmatch(rf"(?:{_DURATION.pattern})+", value):
        line.fail(f"--{flag.name} is a duration such as 30s or 1m30s", flag)
    return sum(int(float(number) * _SECONDS[unit]) for number, unit in _DURATION.findall(value))


def _onbuild(line: Line) -> steps.Step:
    word = (line.rest.split(None, 1) or [""])[0].upper()
    if word in ("ONBUILD", "FROM", "MAINTAINER", ""):
        line.fail(f"ONBUILD can't be followed by {word or 'nothing'}")
    if word not in _READERS:
        line.fail(f"unknown instruction {word}{nearest(word, [*_READERS])}")
    return steps.Onbuild(line.place, line.text, line.rest + "".join(map(_written, line.documents)))


_READERS: Mapping[str, Callable[[Line], steps.Step]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


# --- a file -------------------------------------------------------------------------------------------------


def parse(source: str, data: bytes) -> steps.Recipe:
    """The build that the Containerfile *source* with the content *data* describes.

    Raises:
        BuildError: it is wrong, with file, line and column.
    """
    document = read_document(source, data)
    args: list[steps.Arg] = []
    stages: list[steps.Stage] = []
    current: list[steps.Step] = []
    for line in map(Line, logical_lines(document)):
        if line.name == "FROM":
            current = []
            stages.append(_stage(line, current, stages))
        elif line.name not in _READERS:
            begin = line.at(0, len(line.name))
            begin.fail(f"unknown instruction {line.name}{nearest(line.name, ['FROM', *_READERS])}")
        elif stages:
            current.append(_READERS[line.name](line))
        elif line.name == "ARG":
            args.append(_arg(line))
        else:
            line.fail(f"{line.name} stands before the first FROM; only ARG can", mend="FROM scratch")
    if not stages:
        Place(source, document.text, 0, 1).fail("there is no FROM: a build begins with one")
    return steps.Recipe(tuple(args), tuple(_closed(stages)))


class _Open(list[steps.Step]):
    """The steps of a stage that is still being read."""


def _stage(line: Line, current: list[steps.Step], before: Sequence[steps.Stage]) -> steps.Stage:
    words = line.words()
    name = ""
    if len(words) == 3 and words[1].text.upper() == "AS":
        name = words[2].text.lower()
        if not _STAGE.fullmatch(name):
            line.fail(f"{words[2].text!r} is no name for a stage: letters, digits, '.', '_', '-'", words[2])
        if name == "scratch" or name == "context":
            line.fail(f"a stage can't be called {name}", words[2])
        if any(stage.name == name for stage in before):
            line.fail(f"there is a stage called {name} already", words[2])
    elif len(words) != 1:
        line.fail("FROM needs one image, and may have a name for the stage: FROM IMAGE [AS NAME]")
    platform = line.flag_word("platform")
    return steps.Stage(line.place, name, line.word(words[0]), platform, current)  # type: ignore[arg-type]


def _closed(stages: Sequence[steps.Stage]) -> Iterator[steps.Stage]:
    for stage in stages:
        yield steps.Stage(stage.place, stage.name, stage.base, stage.platform, tuple(stage.steps))


def parse_instruction(source: str, text: str) -> steps.Step:
    """One instruction, such as an image says for builds upon it.

    Raises:
        BuildError: it is wrong, or no instruction that can stand there.
    """
    document = read_document(source, text.encode("utf-8", "replace"))
    lines = list(map(Line, logical_lines(document)))
    if len(lines) != 1 or lines[0].name not in _READERS or lines[0].name in ("ONBUILD", "MAINTAINER"):
        document.place(0, len(text)).fail("that is no instruction for a build upon the image")
    return _READERS[lines[0].name](lines[0])
