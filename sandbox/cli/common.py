"""What the verbs share: parsers that suggest, messages, and the options of a call."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable
from typing import NoReturn

from sandbox.errors import SandboxError
from sandbox.words import printable

__all__ = [
    "LINES",
    "OURS",
    "Parser",
    "UsageError",
    "call_options",
    "nearest",
    "print_error",
    "profile_option",
    "say",
]

#: exit status when we failed, as in docker and podman
OURS = 125
#: what `printable` keeps in a text of several lines
LINES = "\n\t"


class UsageError(Exception):
    """The command line is wrong. The message is one line; `verb` says whose --help to name."""

    def __init__(self, message: str, verb: str = "") -> None:
        super().__init__(message)
        self.verb = verb


class Parser(argparse.ArgumentParser):
    """argparse's, without abbreviations, with suggestions, and raising `UsageError`."""

    def __init__(self, verb: str, usage: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"sandbox {verb}",
            usage=f"sandbox {verb} {usage}".rstrip(),
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        self.verb = verb

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.verb)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parse *arguments*, and name the nearest option for one that is not known.

        Raises:
            UsageError: they are wrong.
        """
        namespace, rest = self.parse_known_args(arguments)
        for word in rest:
            if word.startswith("-") and word != "-":
                raise UsageError(unknown_option(word, self._option_string_actions), self.verb)
        if rest:
            raise UsageError(f"unexpected argument {rest[0]!r}", self.verb)
        return namespace

    def flags_and_valued(self) -> tuple[frozenset[str], frozenset[str]]:
        """The options without a value, and those with one."""
        flags = {name for name, action in self._option_string_actions.items() if action.nargs == 0}
        return frozenset(flags), frozenset(self._option_string_actions.keys() - flags)

    def split(self, arguments: list[str]) -> tuple[list[str], list[str]]:
        """Cut *arguments* into options and the command behind them (`sandbox.cli.fast.split`).

        Raises:
            UsageError: an option is not known.
        """
        from sandbox.cli import fast

        parts = fast.split(arguments, *self.flags_and_valued())
        if isinstance(parts, str):
            raise UsageError(unknown_option(parts, self._option_string_actions), self.verb)
        return parts

    def parse_options(self, options: list[str]) -> argparse.Namespace:
        """Parse what `split` gave, whatever the values begin with (argparse would take `--bind -x:/y`
        for two options).

        Raises:
            UsageError: they are wrong.
        """
        _, valued = self.flags_and_valued()
        joined: list[str] = []
        words = iter(options)
        for word in words:
            value = next(words, None) if word in valued else None
            if value == "--" or word.partition("=")[2] == "--" or (word[:2] in valued and word[2:] == "--"):
                # argparse takes such a value for the end of the options, which it isn't here
                raise UsageError(
                    f"option {word.partition('=')[0]} needs a value, and `--` is none", self.verb
                )
            if value is None:
                joined.append(word)
            elif not value or value.startswith("="):
                joined += [word, value]
            else:
                joined.append(f"{word}={value}" if word.startswith("--") else word + value)
        return self.parse(joined)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(100, _columns() - 2))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """`-p, --profile PROFILE`, where argparse repeats the metavar."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


def _columns() -> int:
    try:
        return max(60, os.get_terminal_size(1).columns)
    except OSError:
        return 100


def unknown_option(word: str, known: Iterable[str]) -> str:
    """What to say of an option that is not known."""
    name = word.partition("=")[0]
    return f"unknown option {name!r}{nearest(name, [each for each in known if each.startswith('--')])}"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or nothing."""
    near = difflib.get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def profile_option(parser: argparse.ArgumentParser) -> None:
    """Add -p/--profile."""
    parser.add_argument(
        "-p",
        "--profile",
        metavar="PROFILE",
        help="a profile's name or a path of one (default: the project's sandbox.toml, else 'default')",
    )


def call_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a call that runs something."""
    group = parser.add_argument_group("options of the call")
    group.add_argument("--report", metavar="FILE|fd:N", help="write the verdict there, as one line of JSON")
    group.add_argument("--pcap", metavar="FILE", help="keep what passes through the network there (libpcap)")
    group.add_argument("--dry-run", action="store_true", help="show what would be done, and run nothing")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="say nothing of how the command ended; only errors of ours"
    )
    group.add_argument("--verbose", action="store_true", help="say on stderr what is being set up")
    habits = ("-i", "-t", "-it", "-ti", "--interactive", "--tty", "--rm")
    group.add_argument(*habits, action="store_true", dest="_habit", help=argparse.SUPPRESS)
    group.add_argument("--name", metavar="NAME", dest="_name", help="go on in the kept sandbox NAME")
    group.add_argument(
        "--keep", action="store_true", dest="_keep", help="keep what changes in the image, under --name"
    )
    group.add_argument("-d", "--detach", action="store_true", dest="_detach", help=argparse.SUPPRESS)


def say(message: str) -> None:
    """Write a message of ours to stderr, if there is one."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"sandbox: {printable(message, LINES)}\n")
        sys.stderr.flush()
    except OSError:  # closed, or full: there is nobody to tell
        return


def print_error(error: SandboxError) -> None:
    """Say what failed, why, and what mends it."""
    say(error.message)
    if error.mend:
        say("  mend: " + error.mend.replace("\n", "\n           "))
