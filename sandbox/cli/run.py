"""`sandbox run`: the slow path, which makes a plan, keeps it for the fast one, and launches it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sandbox.cli import fast
from sandbox.cli.common import Parser, UsageError, call_options, profile_option
from sandbox.cli.planned import prepared_for, working_directory
from sandbox.cli.report import make_ready, write_error
from sandbox.errors import NotAvailableError, SandboxError, SetupError
from sandbox.launch.prepare import Prepared

if TYPE_CHECKING:
    from sandbox.box import Box
    from sandbox.launch.capture import Capture

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

_TRIES = 10

#: options of the design whose mechanism is not built yet, by their `dest`
_LATER = {"_detach": "--detach"}


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
    *,
    entered: bool = True,
) -> int:
    """Prepare and launch, or show what would be done.

    *words* are the options as they were typed, which the plan is cached by; None: it is not. Unless
    *entered*, an image's entry point has no part in the command.
    """
    for name, option in _LATER.items():
        if getattr(options, name):
            what = "sandboxes without their caller are not available yet"
            raise NotAvailableError(f"{option}: {what}", f"leave out {option}")
    call = fast.Call(0 if options.quiet else 2 if options.verbose else 1)
    reported = options.report is not None and not options.dry_run
    if reported:
        call.report = make_ready(options.report)
    box = None
    try:
        if options._name or options._keep:
            words, box = None, _box(options, overrides)
        with _captured(options) as capture:
            if capture is not None:
                words, call.pcap = None, capture.give()
            run = _Run(options, overrides, box, capture)
            if options.dry_run:
                from sandbox.cli.explain import show

                return show(*run.prepared(command, entered))
            for _ in range(_TRIES):
                prepared, argv = run.prepared(command, entered)
                run.launch(prepared, argv, call, words)  # returns when layers were removed
            raise SetupError(
                "the layers or ids that the sandbox was to have are gone again and again: is something "
                "cleaning up, or are very many starting?",
                "try again when that is over",
            )
    except SandboxError as error:
        if reported:
            write_error(call.report, error)
        raise
    finally:
        if box is not None:  # whoever comes here has run nothing
            from sandbox.box.keeping import give_up

            give_up(box)


class _Run:
    """A call's options, with what they name open: the box that is kept, and the file of --pcap."""

    def __init__(
        self,
        options: argparse.Namespace,
        overrides: Mapping[str, object],
        box: Box | None,
        capture: Capture | None,
    ) -> None:
        self._options, self._overrides = options, overrides
        self._box, self._capture = box, capture
        if box is not None:
            from sandbox.box.keeping import overrides_for

            self._overrides = overrides_for(box, overrides)

    def prepared(self, command: Sequence[str], entered: bool) -> tuple[Prepared, list[str]]:
        """The plan, and the command with what an image's entry point adds where it is *entered*."""
        options, capture = self._options, self._capture
        prepared = prepared_for(
            options.profile,
            self._overrides,
            None if options.dry_run else options.report,
            box=self._box,
            quiet=options.quiet,
            guarded=capture.guarded if capture else (),
        )
        if capture is not None:
            capture.check(prepared.profile.net)
        argv = prepared.argv(command) if entered else list(command)
        return prepared, argv

    def launch(
        self, prepared: Prepared, argv: Sequence[str], call: fast.Call, words: Sequence[str] | None
    ) -> None:
        """`launch`, with what is kept of the run in its box."""
        if not argv:
            what = "no command: name one behind the options, or set `command` in the profile"
            raise UsageError(what, "run")
        kept: list[int] = []
        names: list[str] = []
        if self._box is not None:
            self._box.expect(prepared.plan.made_at)
            call.log, call.door = _log(self._box, prepared)
            kept, names = [self._box.fd], [self._box.record.name]
        launch(prepared, argv, call, words, kept, names)


def _captured(options: argparse.Namespace) -> contextlib.AbstractContextManager[Capture | None]:
    """The file of --pcap, if there is one."""
    if options.pcap is None or options.dry_run:
        return contextlib.nullcontext()
    if not options.pcap:
        raise UsageError("--pcap takes a file, not ''", "run")
    from sandbox.launch.capture import opened

    return opened(options.pcap)


def _log(box: Box, prepared: Prepared) -> tuple[int, int]:
    """Where what is kept of this run goes, for `sandbox logs` and `inspect`; who listens for `update`."""
    from sandbox import net
    from sandbox.box.log import begin, listen
    from sandbox.wire import Kind

    services = [each.fields[0] for each in prepared.plan.attributes if each.kind == Kind.SERVICE]
    backend = next((str(each) for each in services if each in ("pasta", "slirp4netns")), "")
    wanted, addresses = prepared.profile.net, prepared.plan.addresses
    try:
        log = begin(box.path, wanted.mode, backend, addresses, net.inside(wanted))
        return fast.above_stdio(log), fast.above_stdio(listen(box.path))
    except OSError as error:
        raise SetupError(f"cannot keep what is told of the run in {box.path}: {error.strerror}") from error


def _box(options: argparse.Namespace, overrides: Mapping[str, object]) -> Box | None:
    """The one that the call names."""
    from sandbox.box.keeping import box_for

    if not options._name:
        raise UsageError("--keep takes --name: under which name is it to be kept?", "run")
    progress = None if options.quiet else sys.stderr
    return box_for(options._name, options._keep, options.profile, overrides, working_directory(), progress)


def launch(
    prepared: Prepared,
    argv: Sequence[str],
    call: fast.Call,
    words: Sequence[str] | None,
    kept: Sequence[int] = (),
    names: Sequence[str] = (),
) -> None:
    """Keep the plan for the fast path, and become the supervisor, with the descriptors *kept* as long as the
    sandbox is there; *names* are its own besides its host name. Returns when it has to be made anew."""
    from sandbox.cli import cache

    leases = prepared.take_leases()
    if leases is None:
        return
    entry = cache.entry_of(prepared, () if words is None else fast.key_of(list(words)))
    if words is not None and prepared.plan.membership is None:
        cache.store(entry, fast.cache_directory())
    joined: tuple[int, ...] = ()
    if prepared.plan.membership is not None:
        from sandbox import wire
        from sandbox.launch.private import join

        found = join(prepared.plan.membership, names)
        joined, entry.plan = found.fds, wire.extend(entry.plan, found.records)
        if call.log >= 0:
            from sandbox.box.log import tell_network

            tell_network(call.log, found.inside)
    try:
        if prepared.plan.needs_scratch:
            from sandbox.launch import scratch

            scratch.sweep(entry.scratch)
        fast.launch(entry, list(argv), call, [fast.above_stdio(fd) for fd in [*joined, *leases, *kept]])
    except OSError as error:
        from sandbox.launch.backend import scarce

        what = f"cannot start {fast.HELPER}" if error.filename == fast.HELPER else "cannot launch"
        missing = not os.path.exists(fast.HELPER)
        mend = "reinstall sandbox: its helper executable is missing" if missing else scarce(error.errno)
        raise SetupError(f"{what}: {error.strerror}", mend, errno=error.errno or 0) from error
