"""`sandbox shell`: an interactive shell in a sandbox of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox.cli.common import Parser, call_options, profile_option
from sandbox.errors import NotAvailableError
from sandbox.profile.loader import Given
from sandbox.profile.model import Origin

__all__ = ["main"]

_DESCRIPTION = """\
An interactive shell in a sandbox of its own: yours ($SHELL) where it is seen inside, else bash or sh.
Everything in the sandbox ends with it.
"""

#: The shell is looked for inside, by the inside: what exists there is not for us to say.
_SCRIPT = 'for shell do [ -x "$shell" ] && exec "$shell"; done; exec sh'


def main(arguments: list[str]) -> int:
    """Does not return when it could launch."""
    from sandbox.cli.run import execute
    from sandbox.profile import add_options, overrides_from

    parser = Parser("shell", "[options] [NAME]", _DESCRIPTION)
    profile_option(parser)
    add_options(parser)
    call_options(parser)
    words, rest = parser.split(arguments)
    options = parser.parse_options(words)
    if rest:
        raise NotAvailableError(
            f"entering a sandbox that runs is not available yet, so {rest[0]!r} can't be entered",
            f"a kept sandbox: `sandbox shell --name {rest[0]}`; a command: `sandbox run -- {' '.join(rest)}`",
        )
    overrides = _marked(overrides_from(options))
    shells = [os.environ.get("SHELL", ""), "/bin/bash", "/usr/bin/bash"]
    command = ["/bin/sh", "-c", _SCRIPT, "sandbox", *[shell for shell in shells if shell.startswith("/")]]
    return execute(options, command, overrides, entered=False)


def _marked(overrides: Mapping[str, object]) -> dict[str, object]:
    """With the variables of a shell: Debian's prompt shows debian_chroot (others show the host name,
    which is "sandbox"); with an empty HISTFILE no history is written, wherever the home is."""
    variables = {'env.set."debian_chroot"': "sandbox", 'env.set."HISTFILE"': ""}
    marks = {key: Given(value, Origin("sandbox shell")) for key, value in variables.items()}
    return {**marks, **overrides}
