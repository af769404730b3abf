"""Credentials from a program: the docker-credential-NAME protocol of docker-credential-helpers.

`docker-credential-NAME get` reads a server from stdin and prints {"Username": …, "Secret": …}. The program
is the user's, what it prints may be anything, and it may wait for a passphrase: both are bounded.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import NamedTuple

from sandbox.errors import ImageError
from sandbox.image import strict_json
from sandbox.words import printable

__all__ = ["TIMEOUT", "HelperError", "Secret", "ask"]

#: Seconds for an answer: somebody may have to type a passphrase.
TIMEOUT = 120.0
#: Bytes that are read of what a helper prints.
_LIMIT = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: What helpers print, instead of JSON, when they have nothing for a server.
_NOTHING = ("credentials not found", "no credentials server url", "no credentials username", "not found in")


class Secret(NamedTuple):
    """What a helper answered. The username "<token>" says that the secret is an identity token."""

    username: str
    secret: str


class HelperError(ImageError):
    """A helper is missing, failed, or printed something else."""


def ask(name: str, server: str, timeout: float = TIMEOUT) -> Secret | None:
    """What docker-credential-*name* knows of *server*; None: nothing.

    Raises:
        HelperError: it is missing, failed, took longer than *timeout* seconds, or printed something else.
    """
    program = f"docker-credential-{name}"
    path = shutil.which(program) if _NAME.fullmatch(name) else None
    if path is None or not os.path.isabs(path):
        raise HelperError(f"{printable(program)[:100]} is not on PATH", f"install {printable(program)[:100]}")
    status, out, err = _run(path, server, timeout)
    if status == 0:
        return _parse(program, out)
    said = (out or err).decode(errors="replace").strip()
    if any(text in said.lower() for text in _NOTHING):
        return None
    first = printable(said.partition("\n")[0])[:200]
    raise HelperError(f"{program} failed with status {status}: {first or 'it said nothing'}")


def _parse(program: str, out: bytes) -> Secret | None:
    try:
        answer = strict_json.parse(out, f"what {program} printed", _LIMIT)
        secret = Secret(answer.text("Username", ""), answer.text("Secret", ""))
    except ImageError as error:
        raise HelperError(error.message) from None
    return secret if secret.secret else None


def _run(path: str, server: str, timeout: float) -> tuple[int, bytes, bytes]:
    """Status, stdout and stderr. A session of its own, so that what it started can be ended with it."""
    deadline = time.monotonic() + timeout
    try:
        process = subprocess.Popen(
            [path, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise HelperError(f"{path} can't be run: {error.strerror}") from None
    with process:
        try:
            out, err = _exchange(process, server, deadline)
            return process.wait(max(0.0, deadline - time.monotonic())), out, err
        except (TimeoutError, subprocess.TimeoutExpired):
            raise HelperError(f"{os.path.basename(path)} did not answer in {timeout:g} seconds") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)


def _exchange(process: subprocess.Popen[bytes], server: str, deadline: float) -> tuple[bytes, bytes]:
    """Give it *server*, and read what it prints until it closes both."""
    assert process.stdin and process.stdout and process.stderr
    with suppress(BrokenPipeError):  # one that doesn't read; a pipe takes more than any name of a server has
        os.write(process.stdin.fileno(), server.encode())
    process.stdin.close()
    read: dict[int, bytes] = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    with selectors.DefaultSelector() as selector:
        for descriptor in read:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                part = os.read(key.fd, _LIMIT)
                read[key.fd] += part
                if not part:
                    selector.unregister(key.fd)
            if sum(map(len, read.values())) > _LIMIT:
                raise HelperError(f"a credential helper printed more than {_LIMIT} bytes")
    return read[process.stdout.fileno()], read[process.stderr.fileno()]
