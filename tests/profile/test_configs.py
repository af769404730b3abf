"""The built-in profiles: what they promise. That programs run in them is tested with the launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import paths
from sandbox.profile import Profile, load
from sandbox.profile.model import Mount

NAMES = sorted(path.stem for path in Path(paths.configs()).glob("*.toml"))


@pytest.fixture(params=NAMES)
def profile(request: pytest.FixtureRequest, tmp_home: Path) -> Profile:
    return load(request.param)


def test_names() -> None:
    assert NAMES == ["base", "build", "default", "dev", "test", "untrusted"]


def test_all_of_them(profile: Profile) -> None:
    assert profile.description
    assert profile.root.source == "host"
    assert profile.net.mode == ("user" if profile.name == "dev" else "none")
    assert profile.limits.pids is not None
    assert profile.limits.core == 0
    assert profile.process.seccomp != "off"
    assert not profile.process.nested
    assert not profile.process.capabilities
    assert all(
        "default" not in str(profile.origins[key]) or "/" in str(profile.origins[key])
        for key in ("limits.core",)
    )


def test_no_secret_is_kept(profile: Profile) -> None:
    """Sockets, tokens, and places of files that are not shown."""
    for name in (
        "SSH_AUTH_SOCK",
        "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DISPLAY",
        "XAUTHORITY",
        "http_proxy",
        "HOME",
    ):
        for pattern in profile.env.keep:
            assert name != pattern
            assert not (pattern.endswith("*") and name.startswith(pattern[:-1]))


def test_only_these_write_to_the_host(profile: Profile) -> None:
    writable = {mount.destination for mount in profile.mounts if mount.mode == "rw"}
    assert writable == {"default": {"."}, "dev": {"."}, "build": {"dist"}}.get(profile.name, set())


def test_default(tmp_home: Path) -> None:
    assert load("default").mounts == (Mount(".", "rw"),)


def test_untrusted(tmp_home: Path) -> None:
    found = load("untrusted")
    assert found.mounts == (Mount(".", "ro"),)
    assert found.process.seccomp == "strict"
    limits = found.limits
    assert None not in (
        limits.memory,
        limits.pids,
        limits.timeout,
        limits.cpu_time,
        limits.disk,
        limits.output,
    )
    # Best effort can't be required, so that it would not run anywhere without cgroups.
    assert set(found.require) == {"timeout", "pids", "disk", "output", "net", "seccomp"}


def test_dev_hides_secrets(tmp_home: Path) -> None:
    found = load("dev")
    assert found.root.writable == "disk"
    modes = {mount.destination: mount for mount in found.mounts}
    assert modes["~"].mode == "overlay"
    names = (".ssh", ".gnupg", ".aws", ".config/gcloud", ".kube", ".netrc", ".docker", ".git-credentials")
    for name in (*names, ".config/gh", ".npmrc", ".pypirc"):
        assert modes[f"~/{name}"] == Mount(f"~/{name}", "hide", optional=True)


def test_build_can_be_repeated(tmp_home: Path) -> None:
    found = load("build")
    assert int(found.env.set["SOURCE_DATE_EPOCH"]) >= 315532800  # zip files know nothing earlier
    assert found.process.umask == 0o022
