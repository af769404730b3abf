"""The exceptions that sandbox raises, and nothing else.

Everything raised by design derives from `SandboxError`, and is raised only when the
command never ran; a limit that fired, or a command that failed, is data in `Result`.

    SandboxError
    ├── ProfileError        a profile (or option) is wrong: unknown key, type, unit, contradiction
    │   └── TrustError      a project file asks for more than it may before `sandbox profile trust`
    ├── RequirementError    a limit or feature was required and this machine can't enforce it
    ├── SetupError          the sandbox could not be made
    │   └── HostError       ... because this machine lacks something; `row` names the doctor row
    ├── ImageError          a reference, registry, layer or store is wrong
    │   ├── BuildError      a file of build steps is wrong, or a step failed
    │   ├── DigestError     content is not what its digest and size say
    │   ├── LayerError      an archive can't be applied, or made
    │   └── RegistryError   a registry refused, failed or can't be reached; `status` is the HTTP status
    └── NotAvailableError   a key or option whose mechanism does not exist yet
"""

from __future__ import annotations

__all__ = [
    "BuildError",
    "DigestError",
    "HostError",
    "ImageError",
    "LayerError",
    "NotAvailableError",
    "ProfileError",
    "RegistryError",
    "RequirementError",
    "SandboxError",
    "SetupError",
    "TrustError",
]


class SandboxError(Exception):
    """Base class: sandbox could not do what was asked, and the command did not run.

    `message` says what failed and why, in one line or in a few (a source line and a
    caret). `mend`, when there is one, is the exact command or line that mends it.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        text = f"{self.message}\n  mend: {self.mend}" if self.mend else self.message
        return text.encode("utf-8", "backslashreplace").decode()  # names of files may be no text


class ProfileError(SandboxError):
    """A profile or an option is wrong. The message begins with `file:line:col: ` where known."""


class TrustError(ProfileError):
    """A project's own profile would widen what the user's profile grants."""


class RequirementError(SandboxError):
    """Something named by `require`, or `enforce = "kernel"`, can't be enforced here."""


class SetupError(SandboxError):
    """The sandbox could not be set up.

    `operation` describes the step that failed, `origin` is where it was asked for
    (`file:line` or an option), `errno` the system's error number or 0.
    """

    def __init__(
        self,
        message: str,
        mend: str | None = None,
        *,
        operation: str = "",
        origin: str = "",
        errno: int = 0,
    ) -> None:
        super().__init__(message, mend)
        self.operation = operation
        self.origin = origin
        self.errno = errno


class HostError(SetupError):
    """This machine lacks what the sandbox needs. `row` is the name of the doctor check."""

    def __init__(self, message: str, mend: str | None = None, *, row: str = "") -> None:
        super().__init__(message, mend)
        self.row = row


class ImageError(SandboxError):
    """A reference, registry, layer or the store is wrong or out of reach."""


class BuildError(ImageError):
    """A file of build steps is wrong, with `file:line:col: ` before the message; or a step failed: then
    `status` is its exit status, as a shell would have it."""

    def __init__(self, message: str, mend: str | None = None, *, status: int = 0) -> None:
        super().__init__(message, mend)
        self.status = status


class DigestError(ImageError):
    """Content is not what its digest and size say, or a digest is not well-formed."""


class RegistryError(ImageError):
    """A registry refused, failed, broke the protocol or can't be reached.

    `status` is the HTTP status of its answer, 0 when there was none.
    """

    def __init__(self, message: str, mend: str | None = None, *, status: int = 0) -> None:
        super().__init__(message, mend)
        self.status = status


class LayerError(ImageError):
    """A layer or another archive is damaged, hostile, or can't be applied or made here."""


class NotAvailableError(SandboxError):
    """A documented key or option whose mechanism is not built yet."""
