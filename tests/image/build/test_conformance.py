"""The same Containerfiles built by podman (buildah) and by us: the same files, owners, modes and settings.

Where the two are known to differ, docker's documentation and BuildKit decide, and the difference is said.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.image.build.running import Sandboxed
from sandbox.image.load import load as load_archive
from sandbox.image.store import Image
from sandbox.profile import load
from tests.image.build.conftest import Build
from tests.image.build.rootfs import busybox
from tests.image.layer.archives import archive, directory, file, hardlink, symlink
from tests.image.stored import put_image
from tests.support.needs import need

pytestmark = pytest.mark.integration

CONTEXT: dict[str, str | bytes] = {
    "a": "A",
    "b.txt": "B",
    "d/x": "X",
    "d/sub/y": "Y",
    "d/sub/z.md": "Z",
    "e/x": "E",
    "skip/me": "no",
    "t.tar": archive(directory("q", mode=0o711), file("q/f", b"in"), symlink("s", "q"), hardlink("h", "q/f")),
    ".dockerignore": "skip\n**/*.md\n",
}

FILES = {
    "copy to scratch": "FROM scratch\nCOPY a /\nCOPY d /d\nCOPY d/ /e/\nCOPY a b.txt /f/\n",
    "copy everything": "FROM scratch\nCOPY . /all\n",
    "copy with globs": "FROM scratch\nCOPY *.txt d/* /g/\nCOPY ? /h/\n",
    "copy to relative": "FROM base\nWORKDIR /w\nCOPY a .\nCOPY a x\nCOPY d y\nCOPY d ./z/\n",
    "copy over links": "FROM base\nCOPY a /lib/\nCOPY a /lib/b\nCOPY d /lib\n",
    "copy into what is there": "FROM base\nCOPY a /home/user\nCOPY d /home/user\nCOPY a /etc/passwd\n",
    "owners": "FROM base\nCOPY --chown=1:2 a /1\nCOPY --chown=user a /2\n"
    "COPY --chown=user:root d /home/3\nCOPY --chown=7 d /4\n",
    # Of a directory that is copied podman leaves the new one out of --chmod.
    "modes": "FROM base\nCOPY --chmod=0751 a /1\nCOPY --chmod=755 d /tmp/2\n",
    # What is in an archive keeps its owner, as in docker; podman gives it to root.
    "add archives": "FROM scratch\nADD t.tar /t/\nADD t.tar /\nADD a /a\nCOPY t.tar /c/\n",
    "variables": 'FROM base\nARG A=1\nENV B=$A C="x y" D=${A:+set}${N:-unset}\n'
    "LABEL l=$B m=\"$C\" n='$C'\nENV OLD way of it\n",
    "variables of one line": "FROM base\nENV A=1\nENV A=2 B=$A\nRUN echo $A $B > /o\n",
    "arguments": "ARG BASE=base\nFROM $BASE\nARG BASE\nARG X=d\nRUN echo ${BASE#localhost/} $X > /o\n",
    "commands": 'FROM base\nCMD ["a", "b"]\nENTRYPOINT ["c"]\n',
    "commands for a shell": "FROM base\nENTRYPOINT exec x $Y\nCMD a b\n",
    "a command of the base": 'FROM base AS one\nCMD ["a"]\nFROM one\nENTRYPOINT ["e"]\n',
    "users and directories": "FROM base\nUSER user\nWORKDIR /home/user\nRUN id -u > o\n"
    "WORKDIR rel/ative\nRUN pwd > /tmp/p\n",
    "ports and volumes": 'FROM base\nEXPOSE 80 53/udp\nEXPOSE 8000\nVOLUME /v /w\nVOLUME ["/x"]\n'
    'STOPSIGNAL SIGINT\n',
    "run": "FROM base\n"
    "RUN mkdir -p /a/b && echo 1 > /a/b/c && chmod 750 /a && chown -R user /a/b\n"
    "RUN rm -r /home && rm /lib\n",
    "run in words": 'FROM base\nRUN ["sh", "-c", "echo $1 > /o", "0", "1"]\nRUN ["touch", "a b"]\n',
    "run over lines": "FROM base\nRUN echo a \\\n# comment\n  b \\\n\n  > /o\n",
    "links and modes": "FROM base\n"
    "RUN ln /etc/passwd /p && ln -s p /q && mkfifo /r && chmod 6755 /bin/busybox && chmod 1777 /home\n",
    "stages": "FROM base AS one\nRUN mkdir /s && echo 1 > /s/f && chown user /s/f\n"
    "FROM scratch AS two\nCOPY a /t\n"
    "FROM base\nCOPY --from=one /s /s\nCOPY --from=1 /t /t\nCOPY --from=one /s/f /f\n",
    "a stage of a stage": "FROM base AS one\nENV A=1\nRUN touch /one\nFROM one\nRUN touch /two$A\n",
    "triggers": "FROM base\nONBUILD RUN true\nONBUILD COPY a /\n",
    "replaced": "FROM base\nRUN rm -r /home/user && echo f > /home/user\nCOPY a /n\n"
    "RUN rm /n && mkdir /n\nCOPY d /n\n",
    "an escape": "# escape=`\nFROM base\nRUN echo a `\n b > /o\n",
}  # fmt: skip


class Podman:
    """podman with a storage of its own, in the directory *top*."""

    def __init__(self, top: Path) -> None:
        self._top = top
        for name in ("run", "home"):
            (top / name).mkdir(mode=0o700)
        (top / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\nrunroot = "{top}/run"\ngraphroot = "{top}/storage"\n'
        )
        (top / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (top / "containers.conf").write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        self._environment = {
            "HOME": f"{top}/home",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "XDG_RUNTIME_DIR": f"{top}/run",
            "CONTAINERS_STORAGE_CONF": f"{top}/storage.conf",
            "CONTAINERS_CONF": f"{top}/containers.conf",
        }

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["podman", *words], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def build(self, context: Path, text: str) -> Path:
        """Build a Containerfile; the image as an archive."""
        (self._top / "Containerfile").write_text(text)
        options = ["--isolation=chroot", "--layers=false", "--signature-policy", f"{self._top}/policy.json"]
        self("build", *options, "-t", "made", "-f", f"{self._top}/Containerfile", str(context))
        out = self._top / "made.tar"
        out.unlink(missing_ok=True)
        self("save", "-q", "--format=oci-archive", "-o", str(out), "made")
        return out

    def end(self) -> None:
        """End the process that keeps podman's namespace."""
        file = self._top / "run/libpod/tmp/pause.pid"
        if file.exists():
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    need("podman", "busybox", "userns", "plain user", "idrange")
    top = tmp_path_factory.mktemp("podman")
    made = Podman(top)
    (top / "base.tar").write_bytes(busybox())
    made("import", "--change", "ENV PATH=/bin", str(top / "base.tar"), "localhost/base")
    yield made
    made("unshare", "rm", "-rf", f"{top}/storage")
    made.end()


def described(data: tarfile.TarFile) -> dict[str, tuple[Any, ...]]:
    """Everything of an archive's files but their times."""
    found: dict[str, tuple[Any, ...]] = {}
    for each in data:
        if each.name in (".", ""):
            continue
        file = data.extractfile(each) if each.isfile() else None
        content = file.read() if file else each.linkname if each.issym() else None
        kind = b"0" if each.islnk() else each.type
        if each.islnk():
            content = found[each.linkname][-1]
        mode = each.mode if not each.issym() else 0o777
        found[each.name] = (kind, oct(mode), each.uid, each.gid, content)
    return found


#: what podman leaves where it mounted something
MADE = ("dev", "proc", "sys", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf")

#: what is compared of a configuration. The history is each builder's own, and OCI has no place for OnBuild:
#: podman leaves it out.
KEYS = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Labels",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
    "Healthcheck",
]


def configured(image: Image) -> dict[str, Any]:
    said = json.loads(image.config.raw).get("config") or {}
    found = {key: said[key] for key in KEYS if said.get(key)}
    labels = {key: value for key, value in found.pop("Labels", {}).items() if "buildah" not in key}
    environment = sorted(each for each in found.pop("Env", []) if not each.startswith("PATH="))
    return {**found, "Labels": labels, "Env": environment}


@pytest.mark.parametrize("name", FILES)
def test_podman_builds_the_same(build: Build, podman: Podman, name: str, tmp_home: Path) -> None:
    text = FILES[name]
    put_image(build.store, "base", [busybox()], {"Env": ["PATH=/bin"]})
    put_image(build.store, "docker.io/library/base:latest", [busybox()], {"Env": ["PATH=/bin"]})
    build.write(CONTEXT)
    for path in (build.context, *build.context.rglob("*")):
        os.chmod(path, 0o755 if path.is_dir() else 0o640)
    build.runner = Sandboxed(load("build"))
    image = build(text)
    theirs_text = text.replace("FROM base", "FROM localhost/base").replace("=base", "=localhost/base")
    archive = podman.build(build.context, theirs_text)
    (theirs_name,) = load_archive(build.store, str(archive), "theirs:1")
    theirs = build.store.image(build.store.get_ref(theirs_name) or image.descriptor)
    trees = []
    for each in (image, theirs):
        build.exported(each)
        with tarfile.open(build.context.parent / "export.tar") as tar:
            trees.append(described(tar))
    ours, expected = trees
    different = [
        f"{path}: ours {ours.get(path)}, podman's {expected.get(path)}"
        for path in sorted({*ours, *expected})
        if ours.get(path) != expected.get(path) and not (path in MADE and path not in ours)
    ]
    assert not different, "\n".join(different)
    assert configured(image) == configured(theirs)
