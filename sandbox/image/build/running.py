"""RUN: a command in a sandbox, on the image's layers with a new one on top, which becomes a layer.

What the sandbox may is the profile's: its limits, its network, its system call filter. What is in it is the
image and nothing else: of a profile's mounts, variables and root nothing counts here. The layer is made in
the image store's `work/`, under a lock: what a crash leaves there, the next build removes.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from sandbox.errors import BuildError, ImageError, SetupError
from sandbox.image.build import steps
from sandbox.image.build.commands import Command, Mount
from sandbox.image.build.layers import LayerMaker
from sandbox.image.build.records import Records
from sandbox.image.build.report import Report
from sandbox.image.build.state import State
from sandbox.image.compose import Packed
from sandbox.image.durable import is_at, make_directory, take, try_lock, write_file
from sandbox.image.store import Store
from sandbox.wire import Kind

if TYPE_CHECKING:
    from sandbox.launch.prepare import Prepared
    from sandbox.launch.result import Result
    from sandbox.plan.operations import Operation
    from sandbox.profile.model import Profile

__all__ = ["Sandboxed"]

_TAIL = 1 << 16  # bytes of output that are kept for when it fails
_LITTLE = 1 << 20  # bytes: with less, a disk is as good as full
_SCRIPT = "/run/sandbox-build/script"
_SHELLS = ("/bin/bash", "/bin/sh")


class Sandboxed:
    """Executes commands in sandboxes of ours.

    Args:
        profile: whose limits, network and filter they have.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
        debug: give a shell where a command failed.
    """

    def __init__(self, profile: Profile, epoch: int | None = None, *, debug: bool = False) -> None:
        self._profile = profile
        self._epoch = epoch
        self._debug = debug

    def run(
        self, store: Store, state: State, command: Command, step: steps.Step, report: Report
    ) -> Packed | None:
        """See `sandbox.image.build.commands.Runner`."""
        if not state.layers:
            step.place.fail(
                "there is nothing to execute: the image is empty", "FROM an image that has a shell"
            )
        with contextlib.ExitStack() as stack:
            lowers = store.stack(state)
            stack.enter_context(lowers.lease)
            work = stack.enter_context(store.unpacked.workplace(f"build-{os.getpid()}-{os.urandom(4).hex()}"))
            upper = os.path.join(work, "files")
            os.mkdir(upper, 0o700)
            store.unpacked.give(upper)
            mounts = [stack.enter_context(_mounted(store, each)) for each in command.mounts]
            try:
                prepared = self._prepare(
                    store, lowers.lowers, command, upper, [each for each in mounts if each]
                )
            except ImageError as error:  # an unknown user
                raise step.place.error(error.message) from error
            try:
                result, tail = _execute(prepared, command, report)
            except SetupError as error:  # a mount that can't be made, say
                error.message = step.place.error(error.message).message
                raise
            if not result.ok:
                failure = self._failed(prepared, command, result, tail, step, report)
                failure.mend = _room(store.path)
                raise failure
            return LayerMaker(store, self._epoch).commit(
                state, os.path.join(upper, "upper"), prepared.plan.made_at, _driver(prepared)
            )

    def _prepare(
        self, store: Store, lowers: Sequence[str], command: Command, upper: str, mounts: Sequence[Operation]
    ) -> Prepared:
        from sandbox.launch.prepare import prepare, without_environment
        from sandbox.plan.compile import by_fuse
        from sandbox.plan.layers import Layered, Layers, Settings
        from sandbox.plan.operations import File, ReadOnly

        settings = Settings("being built", user=command.user, workdir=command.workdir)
        layered = Layered(tuple(lowers), store.unpacked.ids.plan, settings=settings)
        prepared = prepare(
            self._profile_for(command),
            {},
            "/",
            {"PATH": os.defpath},
            layers=Layers(given=layered, upper=upper),
        )
        if _driver(prepared) != "overlay":
            mounts = [by_fuse(each) for each in mounts]
        operations = list(prepared.plan.operations)
        if command.script is not None:
            mounts = [*mounts, File(dst=_SCRIPT, content=command.script, mode=0o755, mounted=True)]
        at = next((n for n, each in enumerate(operations) if isinstance(each, ReadOnly)), len(operations))
        plan = replace(prepared.plan, operations=(*operations[:at], *mounts, *operations[at:]))
        return replace(prepared, plan=plan, static=without_environment(plan.encode()))

    def _profile_for(self, command: Command) -> Profile:
        """The profile with nothing of the host's files and variables in it."""
        from sandbox.host import probe
        from sandbox.profile.model import Environment, Root, User

        profile = self._profile
        net, driver = profile.net, profile.root.driver
        if driver == "auto":
            driver = "overlay" if probe(need=("overlay",)).overlay else "fuse-overlayfs"
        if command.network == "none" and net.mode != "none":
            net = replace(net, mode="none", publish=(), activate=(), allow=None, deny=(), dns=())
        return replace(
            profile,
            root=Root(source="empty", writable="disk", driver=driver),
            mounts=(),
            user=User(),
            net=net,
            env=Environment(),
            process=replace(profile.process, workdir=None),
            origins=MappingProxyType(
                {key: origin for key, origin in profile.origins.items() if key.startswith(("limits", "net"))}
            ),
        )

    def _failed(
        self,
        prepared: Prepared,
        command: Command,
        result: Result,
        tail: bytes,
        step: steps.Step,
        report: Report,
    ) -> BuildError:
        how = result.message.removeprefix("sandbox: ") or _how(result.returncode)
        if self._debug:
            _enter(prepared, command, step)
        message = step.place.error(f"the step failed: {how}").message
        shown = tail.decode("utf-8", "replace").strip("\n")
        if report.output is None and shown:
            message = f"{message}\nit wrote:\n{shown}"
        status = result.returncode if result.returncode >= 0 else 128 - result.returncode
        return BuildError(message, status=status or 1)


def _driver(prepared: Prepared) -> str:
    """Who makes its overlays, and so how the writable layer is to be read."""
    by_program = any(each.kind is Kind.FUSE for each in prepared.plan.attributes)
    return "fuse-overlayfs" if by_program else "overlay"


def _room(path: str) -> str | None:
    """What mends a step for which there was no room; programs say "I/O error", or nothing."""
    found = os.statvfs(path)
    left = found.f_bavail * found.f_frsize
    if left >= _LITTLE:
        return None
    return f"{path} has {left} bytes left, which may be why: sandbox image prune"


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    import signal

    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


# --- executing ----------------------------------------------------------------------------------------------


def _argv(command: Command) -> list[str]:
    """What is executed; a script by what its first line says (execve(2), "Interpreter scripts")."""
    if command.script is None:
        return list(command.argv)
    first = command.script.partition(b"\n")[0][2:].strip().decode("utf-8", "surrogateescape")
    interpreter, _, argument = first.partition(" ")
    return [interpreter, *([argument.strip()] if argument.strip() else []), _SCRIPT]


def _environment(prepared: Prepared, command: Command) -> dict[str, str]:
    """The image's and the arguments'; HOME as the user has it, unless they say so."""
    home = prepared.plan.environment.get("HOME", "/")
    return {"HOME": home, **command.environment}


def _execute(prepared: Prepared, command: Command, report: Report) -> tuple[Result, bytes]:
    """Execute it; and the last that it wrote. No terminal of ours is given to it."""
    from sandbox.launch.api import run_prepared

    relay = _Relay(report.output)
    try:
        environment = _environment(prepared, command)
        options = {"env": environment, "stdout": relay.fd, "stderr": relay.fd, "stdin": -3}
        result = run_prepared(prepared, _argv(command), options)  # type: ignore[arg-type]
    finally:
        relay.close()
    return result, relay.tail


class _Relay:
    """Passes on what is written to `fd`, and keeps the end of it."""

    def __init__(self, out: int | None) -> None:
        self.tail = b""
        self._out = out
        self._in, self.fd = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        while data := os.read(self._in, 1 << 16):
            self.tail = (self.tail + data)[-_TAIL:]
            view = memoryview(data)
            while self._out is not None and view:
                try:
                    view = view[os.write(self._out, view) :]
                except BlockingIOError:  # a terminal of somebody who wants it so
                    select.select((), (self._out,), ())
                except OSError:  # closed, or full: there is nobody to tell
                    self._out = None

    def close(self) -> None:
        os.close(self.fd)
        self._thread.join()
        os.close(self._in)


def _enter(prepared: Prepared, command: Command, step: steps.Step) -> None:
    """A shell in what the failed command left."""
    if not (os.isatty(0) and os.isatty(2)):
        print("sandbox: --debug-shell needs a terminal", file=sys.stderr)
        return
    from sandbox.launch.api import run_prepared

    print(
        f"sandbox: a shell where line {step.place.line} failed; nothing of it is kept. "
        f"The command: {' '.join(_argv(command))[:200]}",
        file=sys.stderr,
    )
    environment = {**_environment(prepared, command), "TERM": os.environ.get("TERM", "dumb")}
    script = f'for s in {" ".join(_SHELLS)}; do [ -x "$s" ] && exec "$s" -i; done'
    run_prepared(prepared, ["/bin/sh", "-c", script], {"env": environment, "capture_output": False})


# --- mounts -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _mounted(store: Store, mount: Mount) -> Iterator[Operation | None]:
    """The operation for a mount, good for as long as the `with` statement's body runs."""
    from sandbox.plan.operations import Bind, File, Overlay, Tmpfs
    from sandbox.wire import Mount as Flag

    safe = Flag.NOSUID | Flag.NODEV | Flag.CREATE
    if mount.kind == "tmpfs":
        yield Tmpfs(dst=mount.target, flags=safe, mode=0o1777, size=mount.size)
    elif mount.kind == "secret":
        if not mount.target:
            yield None
            return
        mode = _for_owner(0o400 if mount.mode is None else mount.mode, mount, 0o4)
        yield File(dst=mount.target, content=mount.content, mode=mode, mounted=True)
    elif mount.kind == "cache":
        with _cache(store, mount) as path:
            flags = safe | (Flag.READONLY if mount.readonly else Flag(0))
            yield Bind(dst=mount.target, source=path, flags=flags)
    else:
        made = mount.layer
        if made is None or made.layer is None or made.diff_id is None:
            yield Tmpfs(dst=mount.target, flags=safe | Flag.READONLY, mode=0o755)
            return
        with _snapshot(store, mount) as (path, is_file):
            if mount.readonly or is_file:
                yield Bind(dst=mount.target, source=path, flags=safe | Flag.READONLY)
            else:
                yield Overlay(dst=mount.target, lowers=(path,), flags=safe)


def _for_owner(mode: int, mount: Mount, rights: int) -> int:
    """*mode* for what only root can make, and should be another user's: all in the step have that one's
    *rights*."""
    return mode if mount.owner == (0, 0) else mode | (mode >> 6 & rights) * 0o11


@contextlib.contextmanager
def _snapshot(store: Store, mount: Mount) -> Iterator[tuple[str, bool]]:
    """Where a snapshot is, unpacked; or the one file that is in it."""
    from sandbox.image.unpacked import Source

    made = mount.layer
    assert made is not None and made.layer is not None and made.diff_id is not None

    class One:
        def sources(self) -> list[Source]:
            assert made is not None and made.layer is not None and made.diff_id is not None
            return [Source(made.layer.digest, made.diff_id)]

    stack = store.stack(One())
    with stack.lease:
        path = stack.lowers[0]
        inside = os.path.join(path, mount.name) if mount.name else ""
        is_file = bool(inside) and os.listdir(path) == [mount.name] and os.path.isfile(inside)
        yield (inside, True) if is_file and not os.path.islink(inside) else (path, False)


@contextlib.contextmanager
def _cache(store: Store, mount: Mount) -> Iterator[str]:
    """The directory of a cache, locked as its sharing says: by several at once, or one after the other."""
    top = Records(store.path).mounts(mount.name)
    if mount.sharing == "private":
        for number in range(1000):
            path = f"{top}-{number}"
            fd = _open_cache(store, path, mount)
            if try_lock(fd) and is_at(fd, path):  # what is old may be removed meanwhile
                break
            os.close(fd)
        else:
            raise ImageError(f"the cache {mount.name} is used a thousand times at once")
    else:
        path = top
        fd = take(path, lambda path: _open_cache(store, path, mount), shared=mount.sharing == "shared")
    try:
        os.utime(path)
        yield os.path.join(path, "files")
    finally:
        os.close(fd)


def _open_cache(store: Store, path: str, mount: Mount) -> int:
    mode = _for_owner(0o755 if mount.mode is None else mount.mode, mount, 0o7)
    make_directory(path)
    files = os.path.join(path, "files")
    if not os.path.isdir(files):
        with contextlib.suppress(FileNotFoundError):  # another does the same
            write_file(os.path.join(path, "ids.json"), store.unpacked.ids.record())
        with contextlib.suppress(FileExistsError):
            os.mkdir(files, 0o700)
            os.chmod(files, mode)
        store.unpacked.give(files)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
