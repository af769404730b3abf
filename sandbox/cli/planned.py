"""From the options of a command line to a plan: what `run`, `shell` and `explain` have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox.errors import SetupError
from sandbox.launch.prepare import Prepared, prepare

__all__ = ["prepared_for"]


def prepared_for(profile: str | None, overrides: Mapping[str, object], report: str | None = None) -> Prepared:
    """The plan for a call from the working directory, which protects the *report*'s file.

    Raises:
        SandboxError: of whichever kind.
    """
    try:
        cwd = os.getcwd()
    except OSError as error:
        raise SetupError(
            f"cannot use the working directory: {error.strerror}", "cd to a directory that exists"
        ) from error
    guarded = [report] if report and not report.startswith("fd:") else []
    return prepare(profile, overrides, cwd, os.environ, guarded=guarded, alone=True)
