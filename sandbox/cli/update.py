"""`sandbox update`: published ports of a kept sandbox that runs (`run --name NAME`) come and go."""

from __future__ import annotations

import json
from typing import Any

from sandbox import ports
from sandbox.box import Boxes, log
from sandbox.cli.common import Parser, UsageError
from sandbox.errors import SetupError
from sandbox.launch import publishing
from sandbox.wire import Kind, Record, encode

__all__ = ["main"]

_ANSWER = 1 << 16  # bytes
_DESCRIPTION = """\
Have ports of the host lead into a kept sandbox that runs, and no longer. Prints those that are new, with the
port that was chosen for 0. What is unpublished goes first; connections that are there go on until they end.
"""


def main(arguments: list[str]) -> int:
    parser = Parser("update", "[options] NAME", _DESCRIPTION)
    parser.add_argument("name", metavar="NAME")
    for option, what in (("--publish", "have it lead inside"), ("--unpublish", "no longer")):
        parser.add_argument(
            option, action="append", default=[], metavar="[IP:]PORT:PORT[/udp]", help=f"{what}; repeatable"
        )
    options = parser.parse(arguments)
    if not options.publish and not options.unpublish:
        raise UsageError("nothing to update: --publish or --unpublish says what", "update")
    for option in ("publish", "unpublish"):
        for spec in getattr(options, option):
            try:
                ports.parse(spec)
            except ValueError as error:
                raise UsageError(f"option --{option}: {error}", "update") from None
    name, directory = options.name, Boxes().look(options.name)[1]
    run = log.read(directory)

    def ask(kind: Kind, *fields: str | int) -> dict[str, Any]:
        return _ask(name, directory, kind, fields)

    if run is None or run.report is not None:
        raise _runs_not(name)
    for spec in options.unpublish:
        publishing.unpublish(ask, run.inside, spec, lambda seen: None)
    for spec in options.publish:
        for each in publishing.publish(ask, run.inside, spec, lambda seen: None):
            print(each)
    return 0


def _ask(name: str, directory: str, kind: Kind, fields: tuple[str | int, ...]) -> dict[str, Any]:
    """One request to the supervisor, and its answer.

    Raises:
        SetupError: nobody answers.
    """
    try:
        with log.connect(directory) as connection:
            connection.send(encode([Record(kind, "", "", (1, *fields))]))
            data = connection.recv(_ANSWER)
    except TimeoutError:
        raise SetupError(
            f"the supervisor of {name} does not answer", f"is it stopped? sandbox inspect {name}"
        ) from None
    except OSError:
        raise _runs_not(name) from None
    if not data:
        raise SetupError(f"{name} has just ended, or somebody else changed it at the same time", "try again")
    answer: dict[str, Any] = json.loads(data)
    return answer


def _runs_not(name: str) -> SetupError:
    return SetupError(
        f"{name} does not run, or not by the command: only there can its ports be changed",
        f"sandbox run --name {name} --publish ...   (in Python: Sandbox.publish)",
    )
