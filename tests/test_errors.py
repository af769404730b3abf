"""What every error of ours can be relied on for."""

from __future__ import annotations

from sandbox.errors import SandboxError


def test_an_error_can_be_printed_whatever_is_in_it() -> None:
    error = SandboxError("cannot use \udcff", "rm \udcff")
    assert str(error).encode() == b"cannot use \\udcff\n  mend: rm \\udcff"
    assert error.message == "cannot use \udcff"
