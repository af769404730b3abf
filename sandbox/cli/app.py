"""The command behind the fast path: finds the verb, calls it, and turns errors into messages.

A verb is a module of this package with `main(arguments) -> int`; it is imported, and its parser
built, only when it is called. Nothing else here prints to stdout.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from errno import EBADF
from importlib import import_module
from typing import TextIO

from sandbox.cli.common import OURS, UsageError, nearest, print_error, say
from sandbox.errors import SandboxError

__all__ = ["main"]

VERBS = {
    "run": "run a command in a sandbox of its own",
    "shell": "an interactive shell in a sandbox",
    "profile": "list, show, check, make and trust profiles",
    "explain": "the merged profile, where each value came from, and the plan",
    "doctor": "what works on this machine, what does not, and what mends it",
    "network": "make, list, look at and remove networks that sandboxes share",
    "box": "list, compare, commit and remove the sandboxes that are kept",
    "update": "have ports lead into a kept sandbox that runs, or no longer",
    "image": "pull, push, list, tag, remove, load, save, import and check images",
    "build": "make an image by the steps of a Containerfile or a TOML file",
    "pull": "fetch an image from a registry",
    "push": "bring an image to a registry",
    "images": "the images that are here",
}

#: what docker and podman have as verbs of their own
ALIASES = {
    "build": ["image", "build"],
    "pull": ["image", "pull"],
    "push": ["image", "push"],
    "images": ["image", "ls"],
    "rmi": ["image", "rm"],
    "tag": ["image", "tag"],
    "history": ["image", "history"],
    "load": ["image", "load"],
    "save": ["image", "save"],
    "import": ["image", "import"],
    "ps": ["box", "ps"],
    "rm": ["box", "rm"],
    "diff": ["box", "diff"],
    "inspect": ["box", "inspect"],
    "logs": ["box", "logs"],
    "commit": ["box", "commit"],
}

#: verbs of the design whose mechanism is not built yet
_LATER_VERBS = """
    create start stop restart exec stats top wait pause unpause kill rename cp
    apply discard batch audit gc completion
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


class _Stdout(io.TextIOBase):
    """Standard output as it was, which may be none, but that remembers what failed: argparse does not tell,
    and an error that is no other file's is to be told from those."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.error: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale may not have all that we print

    def write(self, text: str) -> int:
        try:
            if self.stream is None:
                raise OSError(EBADF, os.strerror(EBADF))
            return self.stream.write(text)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            if self.stream is not None and self.error is None:
                self.stream.flush()
        except OSError as error:
            self.error = error
            raise

    def status(self) -> int:
        """0 when all that was printed could be written, else our exit status, and why is said."""
        with contextlib.suppress(OSError):
            self.flush()
        if self.error is None:
            return 0
        _drop(1)
        if isinstance(self.error, BrokenPipeError):  # as in `sandbox profile list | head -1`
            return 141
        full = "make room, or redirect it to where there is some"
        mend = "leave it open" if self.error.errno == EBADF else full
        print_error(SandboxError(f"cannot write to standard output: {self.error.strerror}", mend))
        return OURS


def main(words: list[str]) -> int:
    """Run a command line; return the exit status. Never raises but for SANDBOX_DEBUG=1."""
    try:
        return _main(words)
    finally:
        _drop_what_stderr_has()


def _main(words: list[str]) -> int:
    debug = os.environ.get("SANDBOX_DEBUG") == "1"
    stdout = _Stdout(sys.stdout)
    with contextlib.redirect_stdout(stdout):
        try:
            status = _dispatch(words)
            return stdout.status() or status
        except SystemExit as error:  # argparse's --help
            return stdout.status() or (error.code if isinstance(error.code, int) else 0)
        except UsageError as error:
            say(str(error))
            say(f"see `{' '.join(['sandbox', *error.verb.split()])} --help`")
            return OURS
        except SandboxError as error:
            if debug:
                raise
            print_error(error)
            return OURS
        except KeyboardInterrupt:
            return 130
        except (MemoryError, SystemError) as error:
            # The interpreter is not always able to make a MemoryError of it.
            shortage = isinstance(error, MemoryError) or "without exception set" in str(error)
            if debug:
                raise
            if not shortage:
                return stdout.status() or _unexpected(error)
            mend = "raise the limits on the caller's memory (ulimit -v, ulimit -d), or make room"
            print_error(SandboxError("there is not enough memory for the interpreter", mend))
            return OURS
        except Exception as error:
            status = stdout.status()
            if debug and not status:
                raise
            return status or _unexpected(error)


def _dispatch(words: list[str]) -> int:
    word = words[0] if words else ""
    if word in ALIASES:
        words = [*ALIASES[word], *words[1:]]
        word = words[0]
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
    raise UsageError(f"unknown verb {word!r}{nearest(word, [*VERBS, *ALIASES, *_LATER])}")


def _help() -> str:
    return _HELP.format(verbs="\n".join(f"  {name:<9} {text}" for name, text in VERBS.items()))


def _drop_what_stderr_has() -> None:
    """Forget what can't be written to stderr, where the interpreter would fail, with a status of its own."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _drop(2)


def _drop(descriptor: int) -> None:
    """Let the interpreter's own flush at exit succeed: *descriptor*'s file is gone, or full."""
    try:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, descriptor)
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
