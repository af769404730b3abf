"""The program that runs in the confined child: one command, whose answer is a line of JSON.

    unpack      stdin, a layer, becomes /layer, on top of /lower/0 (the uppermost), /lower/1 ...
    remove      everything in /layer is removed

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
        answer, status = {"error": "nobody wants the rest"}, 1
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
        return {**vars(done), "digest": stream.digest, "stream": stream.size, "format": stream.format}


def _remove(request: Request) -> Answer:
    from sandbox.image.layer.removal import empty

    root = os.open("/layer", _DIRECTORY)
    empty(root)
    return {}


COMMANDS: dict[str, Callable[[Request], Answer]] = {"unpack": _unpack, "remove": _remove}
