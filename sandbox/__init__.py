"""A rootless sandbox runner for Linux.

    import sandbox
    r = sandbox.run(["python3", "sol.py"], profile="untrusted", input="3\\n", timeout=2, text=True)
    r.verdict, r.returncode, r.stdout, r.usage, r.enforced

    with sandbox.Sandbox("untrusted") as sb:
        sb.write_file("/tmp/in", "3\\n")
        sb.run(["sort", "/tmp/in"])

Public names are re-exported from here and imported when they are first used. The exceptions
are drawn in `sandbox.errors`; `sandbox.launch.options` lists the keyword arguments.
"""

# On the path of every cached `sandbox run`: nothing may be imported here, not even __future__.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.box import Box, Boxes
    from sandbox.errors import (
        BuildError,
        DigestError,
        HostError,
        ImageError,
        NotAvailableError,
        ProfileError,
        RegistryError,
        RequirementError,
        SandboxError,
        SetupError,
        TrustError,
    )
    from sandbox.host import Check
    from sandbox.launch.api import Sandbox, run
    from sandbox.launch.doctor import doctor
    from sandbox.launch.live import Stats
    from sandbox.launch.process import Process
    from sandbox.launch.result import CalledProcessError, Limit, Result, Usage, Verdict
    from sandbox.profile.model import Profile

__version__ = "0.1.0"

#: subprocess's own values, so that `import subprocess` is not needed beside us
PIPE, STDOUT, DEVNULL = -1, -2, -3

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Box",
    "Boxes",
    "BuildError",
    "CalledProcessError",
    "Check",
    "DigestError",
    "HostError",
    "ImageError",
    "Limit",
    "NotAvailableError",
    "Process",
    "Profile",
    "ProfileError",
    "RegistryError",
    "RequirementError",
    "Result",
    "Sandbox",
    "SandboxError",
    "SetupError",
    "Stats",
    "TrustError",
    "Usage",
    "Verdict",
    "doctor",
    "run",
]

#: name -> the module that has it, and its name there
_HOMES = {
    "Box": ("box", "Box"),
    "Boxes": ("box", "Boxes"),
    "BuildError": ("errors", "BuildError"),
    "CalledProcessError": ("launch.result", "CalledProcessError"),
    "Check": ("host", "Check"),
    "DigestError": ("errors", "DigestError"),
    "HostError": ("errors", "HostError"),
    "ImageError": ("errors", "ImageError"),
    "Limit": ("launch.result", "Limit"),
    "NotAvailableError": ("errors", "NotAvailableError"),
    "Process": ("launch.process", "Process"),
    "Profile": ("profile.model", "Profile"),
    "ProfileError": ("errors", "ProfileError"),
    "RegistryError": ("errors", "RegistryError"),
    "RequirementError": ("errors", "RequirementError"),
    "Result": ("launch.result", "Result"),
    "Sandbox": ("launch.api", "Sandbox"),
    "SandboxError": ("errors", "SandboxError"),
    "SetupError": ("errors", "SetupError"),
    "Stats": ("launch.live", "Stats"),
    "TrustError": ("errors", "TrustError"),
    "Usage": ("launch.result", "Usage"),
    "Verdict": ("launch.result", "Verdict"),
    "doctor": ("launch.doctor", "doctor"),
    "run": ("launch.api", "run"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, own = _HOMES[name]
    value: object = getattr(import_module(f"{__name__}.{module}"), own)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
