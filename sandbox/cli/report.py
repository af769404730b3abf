"""The report of `--report`: made ready before anything else, and written by us when the command never ran.

What stands in the report of a command that ran is the supervisor's (helpers/verdict.c). The fast path
opens reports itself (`sandbox.cli.fast`), and leaves whatever goes wrong there to be said here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from errno import EISDIR, ELOOP, EMLINK, ENOENT, ENXIO, errorcode

from sandbox.cli import fast
from sandbox.cli.common import UsageError
from sandbox.errors import SandboxError, SetupError
from sandbox.words import quote, to_json

__all__ = ["make_ready", "write_error"]


def make_ready(report: str) -> str:
    """Make the report's file, which must exist for the plan to protect it, or see that its descriptor can be
    written. Returns what to open at the launch: a FIFO stays open until then, because its reader would
    take a close for the end.

    Raises:
        SetupError: it can't be written.
        UsageError: *report* names nothing.
    """
    try:
        if report.startswith("fd:"):
            _check_descriptor(report)
            return report
        if not report:
            raise ValueError
        descriptor = os.open(report, fast.report_flags(report), 0o666)
        fast.refuse_names(descriptor)
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_blocking(descriptor, True)
            return f"fd:{fast.above_stdio(descriptor)}"
        os.close(descriptor)
        return report
    except OSError as error:
        why, mend = _explain(report, error)
        raise SetupError(f"cannot write the report {report}: {why}", mend, errno=error.errno or 0) from error
    except (ValueError, OverflowError):
        raise UsageError(f"--report takes a file or fd:N, not {report!r}", "run") from None


def _check_descriptor(report: str) -> None:
    number = report[3:]
    if not (number.isascii() and number.isdigit()):
        raise ValueError
    if fcntl.fcntl(int(number), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(0, "it is open for reading only")
    fast.refuse_names(int(number))


def _explain(report: str, error: OSError) -> tuple[str, str]:
    """Why the report can't be written, and what mends it."""
    why = error.strerror or str(error)
    if error.errno == EMLINK:
        path = fast.report_path(report) or report
        return why, f"rm {quote(path)}    (its other names keep what is in it)"
    if report.startswith("fd:"):
        return why, f"open it for writing, as in: {report[3:]}> verdict.json"
    if error.errno == ELOOP and os.path.islink(report):
        real = os.path.realpath(report)
        return "it is a symbolic link, which an earlier command may have left", f"--report {quote(real)}"
    if error.errno == ENXIO and stat.S_ISFIFO(os.lstat(report).st_mode):
        return "it is a FIFO that nobody reads", f"start its reader first, as in: cat {quote(report)} &"
    if error.errno == EISDIR:
        return why, f"--report {quote(os.path.join(report, 'verdict.json'))}"
    opened = {"/dev/stdout": "1", "/dev/stderr": "2"}.get(report, os.path.basename(report))
    if report.startswith(("/dev/std", "/dev/fd/", "/proc/self/fd/")) and opened.isdecimal():
        return why, f"--report fd:{opened}    (which writes to it without opening it again)"
    directory = os.path.dirname(report) or "."
    if error.errno == ENOENT:
        return why, f"mkdir -p {quote(directory)}"
    return why, f"ls -ld {quote(directory)} {quote(report)}    or name another file"


def write_error(report: str, error: SandboxError) -> None:
    """Write the report of a command that never ran, in the words of the supervisor's, if it can be."""
    number = error.errno if isinstance(error, SetupError) else 0
    event = {
        "event": "error",
        "operation": error.operation if isinstance(error, SetupError) else "",
        "origin": error.origin if isinstance(error, SetupError) else "",
        "errno": number,
        "errno_name": errorcode.get(number, ""),
        "message": error.message,
        "mend": error.mend or "",
    }
    with contextlib.suppress(OSError), os.fdopen(fast.open_report(report), "w", encoding="utf-8") as file:
        file.write(to_json(event) + "\n")
