"""The program that runs in the confined child: one command, whose answer is a line of JSON.

    unpack      /blob, or stdin, a layer, becomes /layer, on top of /lower/0 (the uppermost), /lower/1 ...
    remove      everything in /layer is removed
    measure     how much disk /layer takes, and a digest of all that is in it
    changes     what /layer, a writable layer, changes of /lower: a line of JSON each, to stdout
    commit      the same, as an archive
    select      what COPY takes of /from/0 (the uppermost), /from/1 ...: a line of JSON each, to stdout
    copy        the same, put into /lower, as an archive of what that changes, to stdout
    place       stdin, an archive of files, put into /lower, in the same way
    workdir     a directory that there is to be in /lower, in the same way
    export      what /lower shows, as an archive, to stdout
    uncompress  stdin, uncompressed, to stdout

The request is in the arguments behind it, NAME=VALUE: a value is JSON, or ":" and a text. The answer goes to
stderr, a line of JSON, because stdout is for data; {"error": ..., "mend": ...} where it can't be done. See
`sandbox.image.confined` for the other end.

What `unpack` needs is all that is imported for it, for it is what people wait for: `json` and `typing` take
longer than all of ours.
"""

from __future__ import annotations

import gc
import os

from sandbox.errors import LayerError
from sandbox.image.layer.names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    Request = dict[str, Any]
    Answer = dict[str, object]

__all__ = ["main"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def main(argv: list[str]) -> None:
    """Do what *argv* says; ends the process."""
    command, request = argv[1], dict(map(_parameter, argv[2:]))
    try:
        answer = COMMANDS[command](request)
        status = 0
    except LayerError as error:
        answer, status = {"error": error.message, "mend": error.mend}, 1
    except BrokenPipeError:
        answer, status = {"error": "what it wrote was not read to the end", "abandoned": True}, 1
    except MemoryError:
        answer, status = {"error": f"cannot {command}: not enough memory"}, 1
    except OSError as error:
        name = error.filename if isinstance(error.filename, str | bytes) else ""
        where = f" ({printable(os.fsencode(name))})" if name else ""
        answer, status = {"error": f"cannot {command}: {error.strerror or error}{where}"}, 1
    os.write(2, _json(answer) + b"\n")
    os._exit(status)


def _parameter(argument: str) -> tuple[str, Any]:
    name, _, value = argument.partition("=")
    if value[:1] == ":":
        return name, value[1:]
    if value in ("true", "false"):
        return name, value == "true"
    if value.isdecimal():
        return name, int(value)
    import json

    return name, json.loads(value)


def _json(answer: Answer) -> bytes:
    literals = {name: _literal(value) for name, value in answer.items()}
    if all(literals.values()):
        return ("{" + ", ".join(f'"{name}": {text}' for name, text in literals.items()) + "}").encode()
    import json

    return json.dumps(answer).encode()


def _literal(value: object) -> str:
    """As JSON has it; empty where that takes more than a look."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.isascii() and value.isprintable() and not {'"', "\\"} & set(value):
        return f'"{value}"'
    return ""


def _lower(top: str = "/lower") -> Any:
    from sandbox.image.layer.merged import Merged

    count = len(os.listdir(top)) if os.path.isdir(top) else 0
    roots = [os.open(f"{top}/{number}", _DIRECTORY) for number in range(count)]
    return Merged(roots) if roots else None


def _open_blob() -> IO[bytes]:
    try:
        return open("/blob", "rb", buffering=0)
    except FileNotFoundError:
        return open(0, "rb", buffering=0)


def _unpack(request: Request) -> Answer:
    from sandbox.image.layer.compress import Budget
    from sandbox.image.layer.copied import open_archive

    gc.disable()  # it would look at every directory again and again, and there is no garbage
    budget = Budget(request["size"] + (request["entries"] << 12), request["floor"], request["ratio"])
    root = os.open("/layer", _DIRECTORY)
    with _open_blob() as file, open_archive(file, budget, request.get("known", "")) as stream:
        # What is needed from here on is read in while the process beside begins.
        from sandbox.image.layer.apply import Below, NotAlone, apply
        from sandbox.image.layer.tar import Limits

        limits = Limits(request["entries"], request["size"])
        try:
            below = Below(_lower(), request.get("alone", False))
            done = apply(stream, root, below, limits=limits, squash=request["squash"])
        except NotAlone:
            return {"alone": False}
        alone = not done.needs_lower
        return {
            **vars(done),
            "alone": alone,
            "digest": stream.digest,
            "stream": stream.size,
            "format": stream.format,
        }


def _remove(request: Request) -> Answer:
    from sandbox.image.layer.removal import empty

    root = os.open("/layer", _DIRECTORY)
    empty(root)
    return {}


def _measure(request: Request) -> Answer:
    from sandbox.image.layer.measure import disk, tree_digest

    root = os.open("/layer", _DIRECTORY)
    answer: Answer = {"disk": disk(root)}
    if request["digest"]:
        answer["tree"] = tree_digest(root)
    return answer


def _changes(request: Request) -> Answer:
    import json

    from sandbox.image.layer.changes import Upper, settled

    count = 0
    upper = Upper(os.open("/layer", _DIRECTORY), request["driver"])
    with open(1, "wb") as out:
        for change in settled(upper, _lower(), _ours(request) or ()):
            line = {"kind": change.kind, "path": os.fsdecode(b"/".join((b"", *change.path)))}
            out.write(json.dumps(line).encode() + b"\n")
            count += 1
    return {"count": count}


def _commit(request: Request) -> Answer:
    from sandbox.image.layer.changes import Upper, write_changes
    from sandbox.image.layer.writer import Writer

    upper = Upper(os.open("/layer", _DIRECTORY), request["driver"])
    ours = _ours(request)
    with open(1, "wb", 1 << 20) as out:
        writer = Writer(out, limit=request["size"], latest=request["latest"])
        return {"entries": write_changes(upper, _lower(), writer, ours)}


def _ours(request: Request) -> set[tuple[bytes, ...]] | None:
    """Paths that setting up the sandbox made, by their names; None where nobody says."""
    ours = request.get("ours")
    return None if ours is None else {tuple(os.fsencode(path).strip(b"/").split(b"/")) for path in ours}


def _selection(request: Request) -> Any:
    from sandbox.image.layer.patterns import Ignore
    from sandbox.image.layer.select import select

    tree = _lower("/from")
    if tree is None:
        raise LayerError(f"{request['where']} is empty")
    sources = [os.fsencode(each) for each in request["sources"]]
    exclude = Ignore(map(os.fsencode, request["exclude"]))
    chosen = select(tree, sources, exclude=exclude, parents=request["parents"], where=request["where"])
    return tree, chosen


def _select(request: Request) -> Answer:
    import json

    from sandbox.image.layer.select import Digests, digest

    tree, chosen = _selection(request)
    whole, lines = digest(tree, chosen, Digests(), owners=True)
    with open(1, "wb") as out:
        for line in lines:
            out.write(json.dumps(line).encode() + b"\n")
    return {"digest": whole}


def _put(request: Request, items: Any, single: bool) -> Answer:
    from sandbox.image.layer.placing import Owner, Ownership, Placer, find_owner, place
    from sandbox.image.layer.writer import Writer

    lower = _lower()
    owner = find_owner(request["owner"], lower) if request["owner"] else None
    with open(1, "wb", 1 << 20) as out:
        writer = Writer(out, limit=request["size"], latest=request["latest"])
        placer = Placer(lower, writer, owner=owner or Owner(0, 0), now=request["now"])
        ownership = Ownership(owner, request["mode"])
        archives = frozenset(map(os.fsencode, request.get("archives", ())))
        destination = os.fsencode(request["destination"])
        place(placer, items, destination, ownership, single=single, archives=archives)
        writer.finish()
        return {"entries": placer.count}


def _copy(request: Request) -> Answer:
    from sandbox.image.layer.select import items

    tree, chosen = _selection(request)
    return _put(request, items(tree, chosen, owners=True), chosen.single)


def _place(request: Request) -> Answer:
    from sandbox.image.layer.compress import Plain
    from sandbox.image.layer.placing import entries
    from sandbox.image.layer.tar import Limits, Reader

    with open(0, "rb", buffering=0) as file:
        blocks = Plain(iter(lambda: file.read(1 << 18), b""))
        return _put(request, entries(Reader(blocks, Limits(size=request["size"]))), request["single"])


def _workdir(request: Request) -> Answer:
    from sandbox.image.layer.placing import Owner, Placer, find_owner
    from sandbox.image.layer.writer import Writer

    lower = _lower()
    owner = find_owner(request["owner"], lower) if request["owner"] else Owner(0, 0)
    with open(1, "wb", 1 << 20) as out:
        writer = Writer(out, latest=request["latest"])
        placer = Placer(lower, writer, owner=owner, now=request["now"])
        target = placer.resolve(os.fsencode(request["destination"]) + b"/")
        if not target.there:
            placer.directory(target.path)
        writer.finish()
        return {"entries": placer.count}


def _export(request: Request) -> Answer:
    from sandbox.image.layer.changes import write_tree
    from sandbox.image.layer.writer import Writer

    with open(1, "wb", 1 << 20) as out:
        return {"entries": write_tree(_lower(), Writer(out, limit=request["size"]))}


def _uncompress(request: Request) -> Answer:
    from sandbox.image.layer.compress import Budget
    from sandbox.image.layer.stream import Stream

    budget = Budget(request["size"], request["floor"], request["ratio"])
    with open(0, "rb", buffering=0) as file, Stream(file, budget) as stream:
        while data := next(stream.pieces(1 << 20), None):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
        stream.finish()
        return {"digest": stream.digest, "stream": stream.size, "format": stream.format}


COMMANDS: dict[str, Callable[[Request], Answer]] = {
    "unpack": _unpack,
    "remove": _remove,
    "measure": _measure,
    "changes": _changes,
    "commit": _commit,
    "select": _select,
    "copy": _copy,
    "place": _place,
    "workdir": _workdir,
    "export": _export,
    "uncompress": _uncompress,
}
