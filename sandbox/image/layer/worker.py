"""The program that runs in the confined child: one command, whose answer is a line of JSON.

    unpack      stdin, a layer, becomes /layer, on top of /lower/0 (the uppermost), /lower/1 ...
    remove      everything in /layer is removed
    measure     how much disk /layer takes, and a digest of all that is in it
    changes     what /layer, a writable layer, changes of /lower: a line of JSON each, to stdout
    commit      the same, as an archive
    export      what /lower shows, as an archive, to stdout
    uncompress  stdin, uncompressed, to stdout

The request is the second argument, JSON. The answer goes to stderr, because stdout is for data;
{"error": ..., "mend": ...} where it can't be done. See `sandbox.image.confined` for the other end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from sandbox.errors import LayerError

__all__ = ["main"]

Request = dict[str, Any]
Answer = dict[str, object]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def main(argv: list[str]) -> None:
    """Do what *argv* says; ends the process."""
    command, request = argv[1], json.loads(argv[2])
    try:
        answer = COMMANDS[command](request)
        status = 0
    except LayerError as error:
        answer, status = {"error": error.message, "mend": error.mend}, 1
    except BrokenPipeError:
        answer, status = {"error": "what it wrote was not read to the end", "abandoned": True}, 1
    except (OSError, MemoryError) as error:
        answer, status = {"error": f"cannot {command}: {error or 'not enough memory'}"}, 1
    os.write(2, json.dumps(answer).encode() + b"\n")
    os._exit(status)


def _lower() -> Any:
    from sandbox.image.layer.merged import Merged

    count = len(os.listdir("/lower")) if os.path.isdir("/lower") else 0
    roots = [os.open(f"/lower/{number}", _DIRECTORY) for number in range(count)]
    return Merged(roots) if roots else None


def _unpack(request: Request) -> Answer:
    from sandbox.image.layer.apply import apply
    from sandbox.image.layer.compress import Budget, Stream
    from sandbox.image.layer.tar import Limits, Reader

    limits = Limits(request["entries"], request["size"])
    budget = Budget(request["size"] + (request["entries"] << 12), request["floor"], request["ratio"])
    root = os.open("/layer", _DIRECTORY)
    with open(0, "rb", buffering=0) as file, Stream(file, budget) as stream:
        done = apply(Reader(stream, limits), root, _lower(), squash=request["squash"])
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
    from sandbox.image.layer.changes import Upper, changes

    count = 0
    with open(1, "wb") as out:
        for change in changes(Upper(os.open("/layer", _DIRECTORY), request["driver"]), _lower()):
            line = {"kind": change.kind, "path": os.fsdecode(b"/".join((b"", *change.path)))}
            out.write(json.dumps(line).encode() + b"\n")
            count += 1
    return {"count": count}


def _commit(request: Request) -> Answer:
    from sandbox.image.layer.changes import Upper, write_changes
    from sandbox.image.layer.writer import Writer

    upper = Upper(os.open("/layer", _DIRECTORY), request["driver"])
    with open(1, "wb", 1 << 20) as out:
        writer = Writer(out, limit=request["size"], latest=request["latest"])
        return {"entries": write_changes(upper, _lower(), writer)}


def _export(request: Request) -> Answer:
    from sandbox.image.layer.changes import write_tree
    from sandbox.image.layer.writer import Writer

    with open(1, "wb", 1 << 20) as out:
        return {"entries": write_tree(_lower(), Writer(out, limit=request["size"]))}


def _uncompress(request: Request) -> Answer:
    from sandbox.image.layer.compress import Budget, Stream

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
    "export": _export,
    "uncompress": _uncompress,
}
