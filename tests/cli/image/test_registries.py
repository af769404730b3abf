"""Pulling and pushing as users type it: a real registry on loopback, with skopeo, umoci, OCI's validator and
podman as the judges of what we push and the makers of what we pull."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.image.conftest import entries, rootfs, say
from tests.conftest import ROOT
from tests.image import peers
from tests.support.leaks import adopt_orphans

pytestmark = [pytest.mark.integration]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pushed(image: Command, work: Path, plain_registry: peers.Registry) -> str:
    """The name of an image in a registry, of which nothing is left here."""
    name = f"{plain_registry.name}/team/tool:1"
    image("import", rootfs(work / "root.tar"), name)
    image("push", name)
    image("rm", name)
    return name


def content(image: Command, name: str) -> dict[str, tuple[int, int, bytes | None]]:
    return entries(image("export", name, text=False).stdout)  # type: ignore[arg-type]


def blobs(home: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in (home / ".local/share/sandbox/images/blobs/sha256").iterdir()
    }


# --- ours and ours ----------------------------------------------------------------------------------------


def test_what_is_pushed_comes_back_byte_for_byte(
    image: Command, work: Path, plain_registry: peers.Registry, tmp_home: Path
) -> None:
    name = f"{plain_registry.name}/team/tool:1"
    id = image("import", rootfs(work / "root.tar"), "tool:1").stdout
    before = blobs(tmp_home)
    done = image("push", "tool:1", name)
    digest = done.stdout.strip().partition("@")[2]
    assert done.stdout == f"{plain_registry.name}/team/tool@{digest}\n"
    assert len(done.stderr.splitlines()) == 3, "a line for the push and one for each blob"
    assert "already there" in image("push", "tool:1", name).stderr
    assert image("push", "-q", "tool:1", name).stderr == ""
    image("rm", "tool:1")
    assert blobs(tmp_home) == {}
    pulled = image("pull", name)
    assert pulled.stdout == id
    assert blobs(tmp_home) == before
    assert content(image, name)["home/mine"] == (7, 0o640, b"7\n")
    again = image("pull", "-q", name)
    assert (again.stdout, again.stderr) == (id, "")
    by_digest = f"{plain_registry.name}/team/tool@{digest}"
    assert image("pull", "-q", by_digest).stdout == id
    image("inspect", by_digest)


def test_the_docker_habits(sandbox_cmd: Command, image: Command, pushed: str) -> None:
    assert sandbox_cmd("pull", pushed).returncode == 0
    assert sandbox_cmd("push", pushed).returncode == 0
    assert pushed in sandbox_cmd("images").stdout
    assert sandbox_cmd("tag", pushed, "x").returncode == 0
    assert sandbox_cmd("rmi", "x", pushed).stdout == f"x:latest\n{pushed}\n"


def test_nothing_is_unpacked_before_its_use_if_so_asked(image: Command, pushed: str, tmp_home: Path) -> None:
    image("pull", "--no-unpack", pushed)
    assert list((tmp_home / ".local/share/sandbox/images/layers").iterdir()) == []
    assert content(image, pushed)["etc/hello"][2] == b"hello\n"


def test_a_blob_of_another_repository_is_mounted(
    image: Command, pushed: str, plain_registry: peers.Registry
) -> None:
    image("pull", pushed)
    done = image("push", pushed, f"{plain_registry.name}/other/name:2")
    assert "mounted from another repository" in done.stderr


def test_bars_on_a_terminal(image: Command, pushed: str) -> None:
    ours, theirs = os.openpty()
    try:
        image("pull", pushed, stderr=theirs, stdout=subprocess.PIPE, env={"TERM": "xterm"})
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b[J" in shown and "done" in shown


# --- registries.toml --------------------------------------------------------------------------------------


def test_a_registry_by_plain_http_is_refused_unless_told(
    image: Command, pushed: str, tmp_home: Path, plain_registry: peers.Registry
) -> None:
    say(tmp_home, "")
    told = image("pull", pushed, fails=True).stderr
    assert "does not speak TLS" in told and f'[registry."{plain_registry.name}"]' in told
    image("pull", "--tls-verify=true", pushed, fails=True)
    image("pull", "--tls-verify=false", pushed)
    image("push", "--tls-verify=false", pushed)
    image("push", pushed, fails=True)


def test_certificates(
    image: Command, registry: Callable[..., peers.Registry], tmp_path: Path, work: Path, tmp_home: Path
) -> None:
    ca, *pair = peers.authority(tmp_path / "ca")
    server = registry(tls=tuple(pair))
    name = f"{server.name}/tool"
    image("import", rootfs(work / "root.tar"), name)
    assert "its certificate is not accepted" in image("push", name, fails=True).stderr
    image("push", "--tls-verify=false", name)
    say(tmp_home, f'[registry."{server.name}"]\nca = "{ca}"\n')
    image("push", name)
    image("pull", name)


def test_mirrors_are_asked_first(
    image: Command, pushed: str, plain_registry: peers.Registry, registry: Callable[..., peers.Registry],
    tmp_home: Path,
) -> None:  # fmt: skip
    image("pull", pushed)
    mirror = registry()
    off = f'[registry."{mirror.name}"]\ntls = "off"\n'
    say(tmp_home, off)
    image("push", pushed, f"{mirror.name}/hub/library/tool:1")
    say(tmp_home, f'{off}[registry."docker.io"]\nmirrors = ["localhost:1", "{mirror.name}/hub"]\n')
    done = image("pull", "tool:1")
    assert "not from the mirror localhost:1: localhost:1 can't be reached: Connection refused" in done.stderr
    assert content(image, "tool:1")["etc/hello"][2] == b"hello\n"


def test_limits(image: Command, pushed: str, plain_registry: peers.Registry, tmp_home: Path) -> None:
    off = f'[registry."{plain_registry.name}"]\ntls = "off"\n'
    say(tmp_home, f'max_image = "100"\n{off}')
    assert "more than the limit of 100" in image("pull", pushed, fails=True).stderr
    say(tmp_home, f"max_image = 100\nparallel = 99\n{off}")
    assert ":2:12: not a number from 1 to 16" in image("pull", pushed, fails=True).stderr
    say(tmp_home, f'max_image = "1M"\nparallel = 1\n{off}')
    image("pull", pushed)


def test_logging_in(
    image: Command, registry: Callable[..., peers.Registry], work: Path, tmp_home: Path
) -> None:
    server = registry(auth="htpasswd")
    say(tmp_home, f'[registry."{server.name}"]\ntls = "off"\n')
    name = f"{server.name}/tool"
    image("import", rootfs(work / "root.tar"), name)
    told = image("push", name, fails=True).stderr
    assert "podman login" in told or "login" in told
    login = base64.b64encode(f"{peers.USER}:{peers.PASSWORD}".encode()).decode()
    wrong = base64.b64encode(b"ali:wrong").decode()
    for file, auth in (("auth.json", login), ("wrong.json", wrong)):
        (work / file).write_text(json.dumps({"auths": {server.name: {"auth": auth}}}))
    told = image("push", "--authfile", "wrong.json", name, fails=True).stderr
    assert "wrong" not in told.replace("wrong.json", "")
    image("push", "--authfile", "auth.json", name)
    containers = tmp_home / ".config/containers"
    containers.mkdir()
    shutil.copy("auth.json", containers)
    image("pull", name)


# --- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_registry_that_is_not_there(image: Command, work: Path, verb: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    name = f"localhost:{port}/x"
    if verb == "push":
        image("import", rootfs(work / "root.tar"), name)
    done = image(verb, name, fails=True)
    assert f"sandbox: localhost:{port} can't be reached: Connection refused\n" in done.stderr


def test_an_image_that_is_not_there(image: Command, plain_registry: peers.Registry) -> None:
    done = image("pull", f"{plain_registry.name}/no/such:1", fails=True)
    assert f"there is no {plain_registry.name}/no/such:1" in done.stderr


def test_another_platform(image: Command, work: Path, plain_registry: peers.Registry) -> None:
    name = f"{plain_registry.name}/tool"
    image("import", "--platform", "arm64", rootfs(work / "root.tar"), name)
    image("push", name)
    image("rm", name)
    told = image("pull", name, fails=True).stderr
    assert "is for linux/arm64" in told and "mend: ask for it: --platform linux/arm64" in told
    image("pull", "--platform", "linux/arm64", name)
    image("rm", name)
    image("pull", "--platform", "all", name)


def test_a_full_disk(
    image: Command, pushed: str, work: Path, tmp_home: Path, need: Callable[..., None]
) -> None:
    """Of the image nothing is named; when there is room, the pull goes on from what came."""
    server = pushed.partition("/")[0]
    image("import", rootfs(work / "big.tar", {"etc/big": os.urandom(3 << 20)}), f"{server}/big")
    image("push", f"{server}/big")
    image("rm", f"{server}/big")
    script = """
        mount -t tmpfs -o size=2m none "$1" && shift
        PYTHONPATH=$1 "$2" -m sandbox image pull --no-unpack "$3"; echo $?
        mount -o remount,size=16m "$XDG_DATA_HOME"
        PYTHONPATH=$1 "$2" -m sandbox image pull --no-unpack "$3"; echo $?
    """
    within = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c", script, "sh"]
    data = tmp_home / ".local/share"
    command = [*within, str(data), str(ROOT), sys.executable, f"{server}/big"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    status, _, end = done.stdout.split()
    assert (status, end) == ("125", "0"), done.stderr
    assert "no space is left for " in done.stderr
    assert "mend: sandbox image prune" in done.stderr
    assert "of it earlier" in done.stderr


def test_pulls_and_removals_at_once(image: Command, sandbox_cmd: Command, pushed: str) -> None:
    """Whoever comes first: each either works or says why, and at the end all is whole."""
    results: list[subprocess.CompletedProcess[str]] = []

    def work(verb: str) -> None:
        for _ in range(4):
            results.append(sandbox_cmd("image", verb, pushed))

    threads = [threading.Thread(target=work, args=(verb,)) for verb in ("pull", "pull", "rm")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for done in results:
        if done.returncode:
            assert done.args[4] == "rm" and "there is no image" in done.stderr, done.stderr
    image("check")
    image("pull", pushed)
    assert content(image, pushed)["etc/hello"][2] == b"hello\n"


# --- judges -----------------------------------------------------------------------------------------------


def tool(*words: str | Path, **options: Any) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_umoci_and_the_validator_accept_what_we_push(
    pushed: str, work: Path, need: Callable[..., None]
) -> None:
    need("skopeo", "umoci", "oci-image-tool")
    tool("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{pushed}", "oci:out:x")
    tool("oci-image-tool", "validate", "--type", "image", "--ref", "name=x", "out")
    tool("umoci", "unpack", "--rootless", "--image", "out:x", "bundle")
    assert (work / "bundle/rootfs/home/mine").read_bytes() == b"7\n"
    seen = json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{pushed}"))
    assert seen["Os"] == "linux" and len(seen["Layers"]) == 1


@pytest.mark.parametrize(
    "options", [["-f", "v2s2"], ["-f", "oci"], ["--dest-compress-format", "zstd", "-f", "oci"]]
)
def test_what_skopeo_pushes_we_pull(
    image: Command, work: Path, plain_registry: peers.Registry, options: list[str], need: Callable[..., None]
) -> None:
    need("skopeo")
    image("import", rootfs(work / "root.tar"), "tool:1")
    image("save", "-o", "tool.tar", "--format", "docker", "tool:1")
    expected = content(image, "tool:1")
    image("rm", "tool:1")
    image("prune", "--unpacked")
    name = f"{plain_registry.name}/by/skopeo:1"
    copy = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false"]
    tool(*copy, *options, "docker-archive:tool.tar", f"docker://{name}")
    image("pull", name)
    assert content(image, name) == expected


@pytest.fixture
def podman(tmp_path: Path, need: Callable[..., None]) -> Iterator[Callable[..., str]]:
    """Debian's podman with a storage of its own, the kernel's overlay, and runc."""
    need("podman", "runc", "idrange")
    home = tmp_path / "podman"
    config = home / ".config/containers"
    config.mkdir(parents=True)
    (home / "run").mkdir(mode=0o700)
    storage = f'driver = "overlay"\nrunroot = "{home}/run/c"\ngraphroot = "{home}/s"\n'
    (config / "storage.conf").write_text(f"[storage]\n{storage}")
    (config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    environ = {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    }

    def run(*words: str | Path) -> str:
        adopt_orphans(
            False
        )  # podman waits until its monitor is gone, which a dead orphan of ours would not be
        try:
            return tool("podman", "--runtime", "runc", *words, env=environ)
        finally:
            adopt_orphans()

    yield run
    run("rmi", "--all", "--force")
    run("unshare", "sh", "-c", f"umount -l {home}/s/overlay; rm -rf {home}/s")
    run("system", "migrate")  # ends the process that keeps its namespaces


def test_podman_pulls_and_runs_what_we_push(
    image: Command,
    work: Path,
    plain_registry: peers.Registry,
    podman: Callable[..., str],
    need: Callable[..., None],
) -> None:
    need("busybox")
    name = f"{plain_registry.name}/tool:1"
    for directory in ("bin", "proc", "sys", "dev", "etc"):
        (work / "root" / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", work / "root/bin/busybox")
    (work / "root/etc/x").write_text("from us\n")
    id = image(
        "import", "-c", 'ENTRYPOINT ["/bin/busybox"]', "-c", "CMD cat /etc/x", "root", name
    ).stdout.strip()
    image("push", name)
    assert podman("pull", "-q", "--tls-verify=false", name).strip() == id[7:]
    ran = podman("run", "--rm", "--cgroups=enabled", "--network=none", name, "cat", "/etc/x")
    assert ran == "from us\n"


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_what_podman_pushes_we_pull(
    image: Command, work: Path, plain_registry: peers.Registry, podman: Callable[..., str], form: str
) -> None:
    name = f"{plain_registry.name}/by/podman:1"
    podman("import", rootfs(work / "root.tar"), name)
    (work / "Containerfile").write_text(f"FROM {name}\nCOPY second /etc/second\nENV A=1\n")
    (work / "second").write_text("2\n")
    podman("build", "-q", "--format", form, "-t", name, "-f", work / "Containerfile", work)
    podman("push", "-q", "--tls-verify=false", name)
    image("pull", name)
    found = content(image, name)
    assert found["etc/second"] == (0, 0o644, b"2\n")
    assert found["home/mine"] == (7, 0o640, b"7\n")
    assert json.loads(image("inspect", name).stdout)[0]["config"]["config"]["Env"][-1] == "A=1"
    image("save", "--format", "docker", "-o", "tool.tar", name)
    podman("load", "-i", "tool.tar")
