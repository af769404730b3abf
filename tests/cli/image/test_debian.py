"""A real Debian: made by mmdebstrap as a plain user, pushed and pulled, run, extended by apt-get install,
committed, pushed, pulled into another store, and run there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.image import peers
from tests.support import debian

pytestmark = [pytest.mark.integration]

Command = Callable[..., subprocess.CompletedProcess[str]]


def members(image: Command, name: str) -> dict[str, tuple[int, int, int, bytes, str]]:
    """(type, uid, mode, size, link) of all that is in an image."""
    data = image("export", name, text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:  # type: ignore[arg-type]
        return {each.name: (each.type, each.uid, each.mode, each.size, each.linkname) for each in tar}  # type: ignore[misc]


def test_a_debian_goes_to_a_registry_and_back(
    image: Command,
    sandbox_cmd: Command,
    work: Path,
    plain_registry: peers.Registry,
    need: Callable[..., None],
) -> None:
    need("mmdebstrap", "skopeo")
    archive = debian.archive(sandbox_cmd)
    name = f"{plain_registry.name}/{debian.NAME}"
    assert image("load", archive, "--name", name).stdout == f"{name}\n"
    (before,) = json.loads(image("inspect", name).stdout)
    assert before["config"]["history"][0]["comment"].startswith("mmdebstrap --variant=minbase")
    found = members(image, name)
    assert found["etc/shadow"][2] & 0o777 == 0o640
    assert {uid for _, uid, *_ in found.values()} >= {0, 42}, "files of more than one user"
    assert len(found) > 3000
    image("push", name)
    image("rm", name)
    image("prune", "--unpacked")
    pulled = image("pull", "-q", name).stdout.strip()
    assert pulled == before["id"]
    assert members(image, name) == found
    image("check")
    copy = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{name}", "oci:out:x"]
    subprocess.run(copy, check=True, capture_output=True)


def test_a_debian_is_extended_committed_and_run_by_another(
    image: Command,
    sandbox_cmd: Command,
    work: Path,
    tmp_path: Path,
    plain_registry: peers.Registry,
    need: Callable[..., None],
) -> None:
    need("mmdebstrap", "dpkg-deb")

    def run(*words: str | Path, **options: Any) -> str:
        done = sandbox_cmd(*words, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    base, name = "debian:12", f"{plain_registry.name}/team/hellod:1"
    deb = debian.package(work)
    image("load", debian.archive(sandbox_cmd), "--name", base)
    assert run("run", "--image", base, "--", "apt-get", "--version").startswith("apt ")
    kept = f"run --image {base} -u root --name box --keep -v {deb}:/mnt/hellod.deb:ro".split()
    run(*kept, "--", *debian.INSTALL)
    changes = run("diff", "box").splitlines()
    assert {"A /usr/bin/hellod", "A /var/lib/hellod", "C /etc/passwd"} <= set(changes)
    id = run("commit", "box", name).strip()
    run("rm", "box")
    assert run("run", "--image", name, *debian.ASK) == debian.ANSWER
    image("push", name)

    other = tmp_path / "other"
    environ = {"XDG_DATA_HOME": str(other), "PATH": os.environ["PATH"]}
    try:
        assert run("image", "pull", "-q", name, env=environ).strip() == id
        assert run("run", "--image", name, *debian.ASK, env=environ) == debian.ANSWER
        assert len(json.loads(run("image", "history", "--json", name, env=environ))) == 2
    finally:
        sandbox_cmd("image", "rm", "--all", env=environ)
        sandbox_cmd("image", "prune", "--unpacked", env=environ)
