"""From the options of a command line to a plan: what `run`, `shell` and `explain` have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sandbox.cli import fast
from sandbox.errors import SetupError
from sandbox.launch.prepare import Prepared, prepare
from sandbox.plan.layers import Layers

if TYPE_CHECKING:
    from sandbox.box import Box

__all__ = ["prepared_for", "working_directory"]


def prepared_for(
    profile: str | None,
    overrides: Mapping[str, object],
    report: str | None = None,
    *,
    box: Box | None = None,
    quiet: bool = False,
    guarded: Sequence[str] = (),
) -> Prepared:
    """The plan for a call from the working directory, which protects the *report*'s file and those *guarded*.
    *box* keeps the writable layer; unless *quiet*, a pull is told on stderr.

    Raises:
        SandboxError: of whichever kind.
    """
    cwd = working_directory()
    guarded = [*_files(report or ""), *guarded]
    progress = None if quiet else sys.stderr
    layers = Layers(box.layered(), box.upper, progress) if box else Layers(progress=progress)
    return prepare(profile, overrides, cwd, os.environ, guarded=guarded, alone=True, layers=layers)


def working_directory() -> str:
    """The caller's.

    Raises:
        SetupError: it is gone.
    """
    try:
        return os.getcwd()
    except OSError as error:
        raise SetupError(
            f"cannot use the working directory: {error.strerror}", "cd to a directory that exists"
        ) from error


def _files(report: str) -> list[str]:
    behind = fast.report_path(report)
    if behind:
        return [behind]
    return [report] if report and not report.startswith("fd:") else []
