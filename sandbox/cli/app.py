"""The command behind the fast path: finds the verb, calls it, and turns errors into messages.

A verb is a module of this package with `main(arguments) -> int`; it is imported, and its parser
built, only when it is called. Nothing else here prints to stdout.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from sandbox.cli.common import OURS, UsageError, nearest, print_error, say
from sandbox.errors import SandboxError

__all__ = ["main"]

VERBS = {
    "run": "run a command in a sandbox of its own",
    "shell": "an interactive shell in a sandbox",
    "profile": "list, show, check, make and trust profiles",
    "explain": "the merged profile, where each value came from, and the plan",
    "doctor": "what works on this machine, what does not, and what mends it",
}

#: verbs of the design whose mechanism is not built yet
_LATER_VERBS = """
    create start stop restart exec logs ps stats top inspect wait pause unpause kill rename update cp rm
    diff apply discard commit image images pull push build network batch audit gc completion
"""
_LATER = _LATER_VERBS.split()

_HELP = """\
Run a command in a rootless sandbox, as a profile says, and get a verdict.

usage: sandbox VERB [options]

{verbs}

  sandbox VERB --help    what a verb does and takes
  sandbox --version      the version

a first try:

  sandbox run -- python3 -c 'print("hello")'          here, with the profile "default"
  sandbox run -p untrusted --timeout 2s -- ./a.out    what you don't trust
  sandbox explain -p untrusted                        what that profile does
  sandbox doctor                                      whether this machine can do it

Exit status: the command's own; 128+N when signal N ended it; 124 for its timeout; 137 for any other
limit; 125 when sandbox failed; 126 or 127 when the command could not be executed or was not found.
"""


def main(words: list[str]) -> int:
    """Run a command line; return the exit status. Never raises but for SANDBOX_DEBUG=1."""
    debug = os.environ.get("SANDBOX_DEBUG") == "1"
    try:
        status = _dispatch(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SystemExit as error:  # argparse's --help
        return _finish(error.code)
    except UsageError as error:
        say(str(error))
        say(f"see `{' '.join(['sandbox', *error.verb.split()])} --help`")
        return OURS
    except SandboxError as error:
        if debug:
            raise
        print_error(error)
        return OURS
    except BrokenPipeError:  # as in `sandbox profile list | head -1`
        _drop_stdout()
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            raise
        _drop_stdout()
        return _unexpected(error)


def _dispatch(words: list[str]) -> int:
    word = words[0] if words else ""
    if word in VERBS:
        verb: int = import_module(f"sandbox.cli.{word}").main(words[1:])
        return verb
    if word in ("--version", "-V", "version"):
        from sandbox import __version__

        print(f"sandbox {__version__}")
        return 0
    if word in ("--help", "-h"):
        print(_help(), end="")
        return 0
    if word == "help":
        return _dispatch([*words[1:2], "--help"])
    if not word:
        if sys.stderr is not None:
            sys.stderr.write(_help())
        return OURS
    if word in _LATER:
        raise UsageError(f"`sandbox {word}` is not available yet")
    if word.startswith("-"):
        raise UsageError(
            f"unknown option {word!r} before the verb; options follow it, as in `sandbox run {word}`"
        )
    raise UsageError(f"unknown verb {word!r}{nearest(word, [*VERBS, *_LATER])}")


def _help() -> str:
    return _HELP.format(verbs="\n".join(f"  {name:<9} {text}" for name, text in VERBS.items()))


def _finish(code: object) -> int:
    """The status of a SystemExit, with what was printed on its way."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except OSError as error:
        _drop_stdout()
        return _unexpected(error)
    return code if isinstance(code, int) else 0


def _drop_stdout() -> None:
    """Let the interpreter's own flush at exit succeed: stdout is gone, or full."""
    try:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        return


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        say(f"{what} (SANDBOX_DEBUG=1 shows where)")
    else:
        say(f"internal error: {type(error).__name__}: {error} (SANDBOX_DEBUG=1 shows where)")
    return OURS
