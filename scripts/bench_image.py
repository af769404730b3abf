"""`scripts/bench image`: what images cost, beside podman and GNU tar, in turns in one run.

An image of this machine's /usr/lib and /usr/share, in layers, is pushed to a registry on loopback; everything
that is unpacked goes to a tmpfs, where the disk says nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILES, SIZE, LAYERS = 10_000, 155 << 20, 5
STACKS = (1, 10, 100, 500)
#: (what, beside what, at most so many times as much)
TARGETS = {"pull": ("podman pull", 1.0), "unpack": ("tar", 1.2), "build": ("podman build", 1.0)}


class BenchError(Exception):
    """It can't be measured here."""


@dataclass
class Case:
    """Something to do again and again, and the seconds it took; `before` is not counted."""

    name: str
    once: Callable[[], Any]
    before: Callable[[], Any] = lambda: None
    times: list[float] = field(default_factory=list)

    def measure(self) -> None:
        self.before()
        began = time.perf_counter()
        self.once()
        self.times.append(time.perf_counter() - began)

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def main(options: Any) -> None:
    if os.geteuid() == 0:
        raise SystemExit(
            "scripts/bench image: as an ordinary user: setpriv --reuid=USER --regid=USER --init-groups"
        )
    shm = Path("/dev/shm")
    top = Path(tempfile.mkdtemp(prefix="sandbox-bench-", dir=shm if os.access(shm, os.W_OK) else None))
    try:
        results = run(top, options.n)
    except BenchError as error:
        raise SystemExit(f"scripts/bench image: {error}") from None
    finally:
        clean(top)
    print(json.dumps(results, indent=2) if options.json else table(results))


def run(top: Path, times: int) -> dict[str, float]:
    import bench_roots

    archives = make_archives(top)
    cases: list[list[Case]] = []
    with registry(top / "registry") as name:
        cases.append(pulls(top, name, archives))
        cases += [unpacks(top, archives, form) for form in ("plain", "gzip", "zstd")]
        cases += [builds(top, "cold"), builds(top, "cached")]
        cases.append(starts(top))
        for group in cases:
            for _ in range(times):
                for case in group:
                    case.measure()
    found = {case.name: case.median for group in cases for case in group}
    return {**found, **bench_roots.starts(top / "roots", times)}


def table(results: dict[str, float]) -> str:
    lines = []
    for name, seconds in results.items():
        kind = name.split()[0]
        beside, most = TARGETS.get(kind, ("", 0.0))
        other = f"{beside} {name.split()[1]}" if kind in ("unpack", "build") else beside
        ratio = seconds / results[other] if other in results and other != name else 0.0
        told = f"{ratio:5.2f} x {other}, at most {most:g}" if ratio and not name.startswith("tar") else ""
        lines.append(f"{name:<28} {seconds * 1000:9.1f} ms   {told}".rstrip())
    return "\n".join(lines)


# --- what is measured -----------------------------------------------------------------------------------


def make_archives(top: Path) -> list[Path]:
    """The layers, as plain archives: what this machine's programs consist of, several levels deep."""
    paths = [top / f"layer{number}.tar" for number in range(LAYERS)]
    archives = [tarfile.open(path, "w") for path in paths]  # noqa: SIM115  # closed below
    made: list[set[str]] = [set() for _ in paths]
    count = size = 0
    for directory, _, names in sorted(os.walk("/usr/lib")) + sorted(os.walk("/usr/share")):
        number = 0 if size < SIZE // 2 else min(1 + count % (LAYERS - 1), LAYERS - 1)
        for name in sorted(names):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                if not os.path.isfile(path) or os.path.islink(path) or size > SIZE or count > FILES:
                    continue
                data = Path(path).read_bytes()
                if len(data) > 8 << 20:
                    continue
                add_parents(archives[number], made[number], directory)
                member = tarfile.TarInfo(path[1:])
                member.size, member.mtime, member.mode = len(data), 1_700_000_000, 0o644
                archives[number].addfile(member, io.BytesIO(data))
                count, size = count + 1, size + len(data)
    for archive in archives:
        archive.close()
    return paths


def add_parents(archive: tarfile.TarFile, made: set[str], directory: str) -> None:
    above = ""
    for part in directory[1:].split("/"):
        above = f"{above}/{part}" if above else part
        if above not in made:
            made.add(above)
            member = tarfile.TarInfo(above)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            archive.addfile(member)


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[str]:
    """Debian's docker-registry, on loopback; its name."""
    need("docker-registry")
    directory.mkdir()
    storage = f"storage: {{filesystem: {{rootdirectory: {directory}/root}}}}"
    (directory / "config.yml").write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:0'}}\n")
    log = directory / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["docker-registry", "serve", "config.yml"], cwd=directory, stdout=out, stderr=out
        )
    try:
        while not (match := re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())):
            if process.poll() is not None:
                raise BenchError(f"docker-registry did not start: {log.read_text()}")
            time.sleep(0.05)
        yield f"localhost:{match[1]}"
    finally:
        process.kill()
        process.wait()


def need(program: str) -> None:
    if not shutil.which(program):
        raise BenchError(f"no {program}; mend: apt install {program}")


# --- pulls ----------------------------------------------------------------------------------------------


def pulls(top: Path, name: str, archives: list[Path]) -> list[Case]:
    """Ours and podman's: the same image, from the same registry, to be unpacked on the same tmpfs."""
    need("podman")
    environ = our_environment(top / "ours", name)
    image = f"{name}/bench:1"
    push_layers(environ, archives, image)

    def ours(*words: str) -> None:
        quietly([sys.executable, "-m", "sandbox", "image", *words], environ)

    def forget() -> None:
        ours("rm", "-f", "-q", image)
        ours("prune", "-q")

    podman = podman_environment(top / "podman")
    rows = [
        Case(
            "pull",
            lambda: ours("pull", "-q", image),
            forget,
        ),
        Case(
            "podman pull",
            lambda: quietly(["podman", "pull", "-q", "--tls-verify=false", image], podman),
            lambda: quietly(["podman", "rmi", "--all", "--force"], podman),
        ),
    ]
    for row in rows:  # once, not counted: caches are warm, and what is left of pushing is gone
        row.before()
        row.once()
    return rows


def our_environment(home: Path, registry: str) -> dict[str, str]:
    config = home / ".config/sandbox"
    config.mkdir(parents=True)
    (config / "registries.toml").write_text(f'[registry."{registry}"]\ntls = "off"\n')
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}


def push_layers(environ: dict[str, str], archives: list[Path], image: str) -> None:
    """Make the archives an image, and push it. As docker's: compressed by gzip."""
    from sandbox.image import compose
    from sandbox.image.store import Store

    store = Store(f"{environ['HOME']}/.local/share/sandbox/images")
    made = None
    for path in archives:
        with path.open("rb") as file:
            made = compose.add_layer(store, made, compose.pack(store, file), created=0)
    assert made is not None
    store.set_ref(image, made.descriptor)
    quietly([sys.executable, "-m", "sandbox", "image", "push", "-q", image], environ)


def podman_environment(home: Path) -> dict[str, str]:
    """podman's own storage, with the kernel's overlay: left alone, Debian's takes vfs, which copies."""
    config = home / ".config/containers"
    config.mkdir(parents=True)
    (home / "run").mkdir(mode=0o700)
    storage = f'driver = "overlay"\nrunroot = "{home}/run/c"\ngraphroot = "{home}/storage"\n'
    (config / "storage.conf").write_text(f"[storage]\n{storage}")
    (config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": f"{home}/run",
        "PATH": os.environ["PATH"],
        "TMPDIR": str(home),
    }


def quietly(command: list[str], environ: dict[str, str] | None = None, cwd: str = "/") -> None:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {done.stderr}")


# --- unpacking ------------------------------------------------------------------------------------------


def unpacks(top: Path, archives: list[Path], form: str) -> list[Case]:
    """All layers in one archive, by us as a layer and by GNU tar."""
    from sandbox.image import compose
    from sandbox.image.store import Store

    whole = top / "whole.tar"
    if not whole.exists():
        shutil.copy(archives[0], whole)
        for path in archives[1:]:
            quietly(["tar", "--concatenate", f"--file={whole}", str(path)])
    store = Store(str(top / f"store-{form}"))
    with whole.open("rb") as file:
        image = compose.add_layer(store, None, compose.pack(store, file, form), created=0)
    blob = store.blobs.path(image.manifest.layers[0].digest)
    target = top / f"tar-{form}"
    option = {"plain": [], "gzip": ["-z"], "zstd": ["--zstd"]}[form]

    def forget() -> None:
        for key in store.unpacked.all():
            store.unpacked.discard(store.unpacked.set_aside(key))

    def again() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    cases = [
        Case(f"unpack {form}", lambda: store.stack(image).lease.close(), forget),
        Case(f"tar {form}", lambda: quietly(["tar", *option, "-xf", blob, "-C", str(target)]), again),
    ]
    for case in cases:
        case.before()
        case.once()
    return cases


# --- builds -------------------------------------------------------------------------------------------


def builds(top: Path, how: str) -> list[Case]:
    """The same Containerfile by us and by podman (whose steps have a chroot alone around them): "cold",
    nothing is known of its steps; or "cached", all of them are."""
    need("podman")
    context = top / "context"
    ours, podman = top / "ours-build", top / "podman-build"
    if not context.exists():
        make_context(context)
        our_environment(ours, "localhost:1")
        podman_environment(podman)
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    ours_environ = {**environ, "HOME": str(ours), "PYTHONPATH": str(ROOT)}
    run = f"{podman}/run"
    podman_environ = {**environ, "HOME": str(podman), "XDG_RUNTIME_DIR": run, "TMPDIR": str(podman)}
    policy = f"{podman}/.config/containers/policy.json"
    again = ["--no-cache"] if how == "cold" else []
    build = [sys.executable, "-m", "sandbox", "build", "-q", *again, "-t", "b", str(context)]
    theirs = ["podman", "build", "-q", "--isolation=chroot", f"--signature-policy={policy}", "--layers"]
    theirs += [*again, "-t", "b", str(context)]
    rows = [
        Case(f"build {how}", lambda: quietly(build, ours_environ)),
        Case(f"podman build {how}", lambda: quietly(theirs, podman_environ)),
    ]
    for row in rows:
        row.once()
    return rows


def make_context(context: Path) -> None:
    """A Containerfile with two stages, and what it copies."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise BenchError("no busybox; mend: apt install busybox-static")
    (context / "src").mkdir(parents=True)
    shutil.copy(busybox, context / "busybox")
    for number in range(200):
        (context / f"src/{number}").write_bytes(b"%d\n" % number * 1000)
    (context / "Containerfile").write_text(
        "FROM scratch AS base\nCOPY busybox /bin/sh\nENV PATH=/bin\n"
        "FROM base AS made\nCOPY src /src\nRUN cd /src && for f in *; do read l < $f; done && echo > /made\n"
        'FROM base\nCOPY --from=made /made /src/1 /out/\nLABEL a=b\nCMD ["sh"]\n'
    )


# --- starts -------------------------------------------------------------------------------------------


def starts(top: Path) -> list[Case]:
    """`sandbox run` on images with ever more layers, with its plan in the cache."""
    from sandbox.image import compose
    from sandbox.image.store import Store

    busybox = shutil.which("busybox")
    if busybox is None:
        raise BenchError("no busybox; mend: apt install busybox-static")
    environ = our_environment(top / "stacks", "localhost:1")
    store = Store(f"{environ['HOME']}/.local/share/sandbox/images")
    image = None
    for number in range(1, max(STACKS) + 1):
        data = Path(busybox).read_bytes() if number == 1 else b"%d\n" % number
        layer = compose.pack(store, one_file("bin/busybox" if number == 1 else f"layers/{number}", data))
        image = compose.add_layer(store, image, layer, created=0)
        if number in STACKS:
            store.set_ref(f"localhost/stack:{number}", image.descriptor)
    assert image is not None
    store.stack(image).lease.close()
    return [start(environ, number) for number in STACKS]


def start(environ: dict[str, str], number: int) -> Case:
    command = [sys.executable, "-m", "sandbox", "run", "--image", f"localhost/stack:{number}"]
    work = Path(environ["HOME"], "work")
    work.mkdir(exist_ok=True)

    def run() -> None:
        quietly([*command, "--", "busybox", "true"], environ, str(work))

    run()
    return Case(f"start, {number} layer{'s' if number > 1 else ''}", run)


def one_file(path: str, data: bytes) -> io.BytesIO:
    """A layer with one program, and the directory that it is in."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add_parents(archive, set(), f"/{os.path.dirname(path)}")
        member = tarfile.TarInfo(path)
        member.size, member.mode = len(data), 0o755
        archive.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer


# --- the end --------------------------------------------------------------------------------------------


def clean(top: Path) -> None:
    """Files of other ids go by those who made them."""
    ours = [sys.executable, "-m", "sandbox", "image", "prune", "--unpacked"]
    for home in (top / "ours", top / "stacks", top / "ours-build"):
        own = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
        subprocess.run(ours, env=own, capture_output=True, cwd="/")
    for home in (top / "podman", top / "podman-build"):
        if home.exists():
            environ = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
            inside = f"umount -l {home}/storage/overlay; rm -rf {home}/storage"
            subprocess.run(["podman", "unshare", "sh", "-c", inside], env=environ, capture_output=True)
            subprocess.run(["podman", "system", "migrate"], env=environ, capture_output=True)
    shutil.rmtree(top, ignore_errors=True)
