"""`sandbox profile`: list, show, check, make and trust profiles. The work is done by `sandbox.profile`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from sandbox.cli.common import LINES, OURS, Parser, UsageError, nearest, print_error
from sandbox.errors import SandboxError
from sandbox.words import printable, to_json

__all__ = ["main"]

_HELP = """\
usage: sandbox profile COMMAND [options]

List, show, check, make and trust profiles.

  list                 the project's profile, yours, and the built-in ones
  show [PROFILE]       the merged profile, with where each value came from
  check [PROFILE...]   whether profiles are right; says file, line and column where not
  schema               all keys; --json: the JSON schema, for editors
  new [NAME|FILE]      write a commented file to begin with: the project's, yours, or FILE
  trust [DIR|FILE]     let a project's own profile ask for more than "default" gives
  untrust [DIR|FILE]   take that back

A profile is looked for as -p does it: in your configuration, then among the built-in ones; a path
names a file. Without one the project's sandbox.toml is meant, or else "default".
"""


def main(arguments: list[str]) -> int:
    command = arguments[0] if arguments else ""
    if command in _COMMANDS:
        return _COMMANDS[command](arguments[1:])
    if command in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if not command:
        raise UsageError(f"profile needs a command: {', '.join(_COMMANDS)}", "profile")
    what = "option" if command.startswith("-") else "command"
    raise UsageError(f"unknown {what} {command!r}{nearest(command, _COMMANDS)}", "profile")


def _list(arguments: list[str]) -> int:
    parser = Parser("profile list", "[--json]", "The project's profile, yours, and the built-in ones.")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse(arguments)
    from sandbox.profile import profiles

    found = profiles()
    if options.json:
        print(to_json([each._asdict() for each in found], indent=2))
        return 0
    for each in found:
        name = each.name or each.file
        kind = f"{each.kind}, hidden by yours" if each.hidden else each.kind
        print(printable(f"{name:<16} {kind:<10} {'! ' + each.error if each.error else each.description}"))
    return 0


def _show(arguments: list[str]) -> int:
    parser = Parser("profile show", "[PROFILE]", "The merged profile, with where each value came from.")
    parser.add_argument("profile", nargs="?", metavar="PROFILE")
    options = parser.parse(arguments)
    from sandbox.profile import load, show

    print(printable(show(load(options.profile, {})), LINES), end="")
    return 0


def _check(arguments: list[str]) -> int:
    parser = Parser(
        "profile check",
        "[PROFILE ...]",
        "Whether profiles are right. Exit status: 0, or 125 when one is not.",
    )
    parser.add_argument("profiles", nargs="*", metavar="PROFILE")
    options = parser.parse(arguments)
    from sandbox.profile import check

    status = 0
    for name in options.profiles or [None]:
        try:
            print(f"{printable(check(name).name)}: ok")
        except SandboxError as error:
            sys.stdout.flush()
            print_error(error)
            status = OURS
    return status


def _schema(arguments: list[str]) -> int:
    parser = Parser("profile schema", "[--json]", "All keys of profiles: what they take, what they are for.")
    parser.add_argument("--json", action="store_true", help="the JSON schema, for editors")
    options = parser.parse(arguments)
    from sandbox.profile.schema import json_text, reference

    print(json_text() if options.json else reference(), end="")
    return 0


def _new(arguments: list[str]) -> int:
    parser = Parser(
        "profile new",
        "[--extends PROFILE] [NAME|FILE]",
        "Write a commented file to begin with: ./sandbox.toml, your profile NAME, or FILE.\n"
        "Nothing is overwritten.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME|FILE")
    parser.add_argument(
        "--extends", default="default", metavar="PROFILE", help="what it extends (default: default)"
    )
    options = parser.parse(arguments)
    from sandbox.profile import new

    print(printable(new(options.name, extends=options.extends)))
    return 0


def _trust(arguments: list[str]) -> int:
    parser = Parser(
        "profile trust",
        "[DIR|FILE]",
        "Let a project's own profile ask for more than the profile without it gives. It counts for\n"
        "the project's files as they are now: when one changes, trust ends.",
    )
    options = _project(parser, arguments)
    from sandbox.profile.trust import trust

    review = trust(options.project)
    print(printable(f"{review.file}: trusted" + (" already" if review.state == "trusted" else "")))
    for text in review.widens:
        print(printable("  " + text.replace("\n", "\n  "), LINES))
    for path in review.digests:
        if path != review.file:
            print(printable(f"  with {path}"))
    return 0


def _untrust(arguments: list[str]) -> int:
    parser = Parser("profile untrust", "[DIR|FILE]", "Trust a project's own profile no longer.")
    options = _project(parser, arguments)
    from sandbox.profile.trust import untrust

    print("trusted no longer" if untrust(options.project) else "was not trusted")
    return 0


def _project(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    parser.add_argument(
        "project", nargs="?", metavar="DIR|FILE", help="default: the project of this directory"
    )
    return parser.parse(arguments)


_COMMANDS: Mapping[str, Callable[[list[str]], int]] = {
    "list": _list,
    "show": _show,
    "check": _check,
    "schema": _schema,
    "new": _new,
    "trust": _trust,
    "untrust": _untrust,
}
