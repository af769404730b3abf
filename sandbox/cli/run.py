"""`sandbox run`: the slow path, which makes a plan, keeps it for the fast one, and launches it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from sandbox.cli import fast
from sandbox.cli.common import Parser, UsageError, call_options, profile_option
from sandbox.cli.planned import prepared_for
from sandbox.cli.report import make_ready, write_error
from sandbox.errors import NotAvailableError, SandboxError, SetupError
from sandbox.launch.prepare import Prepared

__all__ = ["build_parser", "execute", "launch", "main"]

_DESCRIPTION = """\
Run a command in a sandbox of its own, and exit as it does.

Options end with the first word that is none, or with `--`; everything behind is the command's.
Without a command the profile's own is run. In a terminal the command gets one too, with job
control; otherwise its input and output pass through untouched.
"""

_EPILOG = """\
examples:
  sandbox run -- python3 solution.py < input
  sandbox run -p untrusted --timeout 2s --memory 256M --report verdict.json -- ./a.out
  sandbox run -v ~/data:/data:ro -e LANG=C -- sort /data/words

Exit status: the command's own; 128+N when signal N ended it; 124 for its timeout; 137 for any other
limit; 125 when sandbox failed; 126 or 127 when the command could not be executed or was not found.
"""

#: options of the design whose mechanism is not built yet, by their `dest`
_LATER = {"_name": "--name", "_keep": "--keep", "_detach": "--detach"}


def build_parser() -> Parser:
    """The parser of `run`; `fast.FLAGS` and `fast.VALUED` are its options (a test keeps it so)."""
    from sandbox.profile import add_options

    parser = Parser("run", "[options] [--] [COMMAND ...]", _DESCRIPTION, _EPILOG)
    profile_option(parser)
    add_options(parser)
    call_options(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Does not return when it could launch."""
    from sandbox.profile.options import env_files, overrides_from

    parser = build_parser()
    words, command = parser.split(arguments)
    options = parser.parse_options(words)
    # What came through a pipe is another thing the next time, and nothing about the pipe tells.
    again = all(map(os.path.isfile, env_files(options)))
    return execute(options, command, overrides_from(options), words if again else None)


def execute(
    options: argparse.Namespace,
    command: Sequence[str],
    overrides: Mapping[str, object],
    words: Sequence[str] | None = None,
) -> int:
    """Prepare and launch, or show what would be done.

    *words* are the options as they were typed, which the plan is cached by; None: it is not.
    """
    for name, option in _LATER.items():
        if getattr(options, name):
            raise NotAvailableError(f"{option}: named sandboxes are not available yet", f"leave out {option}")
    call = fast.Call(0 if options.quiet else 2 if options.verbose else 1)
    reported = options.report is not None and not options.dry_run
    if reported:
        call.report = make_ready(options.report)
    try:
        prepared = prepared_for(options.profile, overrides, options.report if reported else None)
        argv = list(command) or list(prepared.profile.command)
        if options.dry_run:
            from sandbox.cli.explain import show

            return show(prepared, argv)
        if not argv:
            raise UsageError(
                "no command: name one behind the options, or set `command` in the profile", "run"
            )
        launch(prepared, argv, call, words)
    except SandboxError as error:
        if reported:
            write_error(call.report, error)
        raise
    return 0


def launch(prepared: Prepared, argv: Sequence[str], call: fast.Call, words: Sequence[str] | None) -> None:
    """Keep the plan for the fast path, and become the supervisor. Returns only by an exception."""
    from sandbox.cli import cache

    entry = cache.entry_of(prepared, () if words is None else fast.key_of(list(words)))
    if words is not None:
        cache.store(entry, fast.cache_directory())
    try:
        if prepared.plan.needs_scratch:
            from sandbox.launch import scratch

            scratch.sweep(entry.scratch)
        fast.launch(entry, list(argv), call)
    except OSError as error:
        what = f"cannot start {fast.HELPER}" if error.filename == fast.HELPER else "cannot launch"
        mend = (
            "reinstall sandbox: its helper executable is missing" if not os.path.exists(fast.HELPER) else None
        )
        raise SetupError(f"{what}: {error.strerror}", mend, errno=error.errno or 0) from error
