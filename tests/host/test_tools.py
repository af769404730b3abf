"""Rows about programs and devices, with programs that say what other machines' say."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandbox.cli import fast
from sandbox.host import tools
from sandbox.host.tools import Runner


def saying(**answers: str | tuple[int, str]) -> Runner:
    """A runner for which each program (by the last word of "program_option") prints that."""

    def run(args: Sequence[str]) -> tuple[int, str] | None:
        words = [args[0].replace("-", "_"), *(a.lstrip("-").replace("-", "_") for a in args[1:2])]
        answer = answers.get("_".join(words), answers.get(words[0]))
        return (0, answer) if isinstance(answer, str) else answer

    return run


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("pasta 2024_08_21.1d6142f", "2024-08"),
        ("pasta 0.0~git20240220.1e6f92b-1", "2024-02"),
        ("pasta 0.0~git20250503.587980c-2", "2025-05"),
        ("pasta unknown version", ""),
        ("", ""),
    ],
)
def test_pasta_dates(text: str, date: str) -> None:
    assert tools.pasta_date(text) == date


@pytest.mark.parametrize(
    ("version", "usage", "ok"),
    [
        ("pasta 2024_08_21.1d6142f\nCopyright\n", "", True),
        ("pasta 2024_07_26.57a21d2\n", "", False),
        ("pasta 2025_01_21.4f2c8e7\n", "", True),
        ("pasta unknown version\n", "  --map-guest-addr ADDR\n", True),
        ("pasta unknown version\n", "  --no-map-gw\n", False),
        ("", "", False),
    ],
)
def test_pasta_must_be_new_enough(version: str, usage: str, ok: bool) -> None:
    row = tools.pasta(run=saying(pasta_version=version, pasta_help=usage))
    assert row.ok == ok and not row.required
    assert bool(row.mend) == (not ok)


def test_what_is_missing_names_its_package() -> None:
    nothing = saying()
    for row in (tools.pasta(run=nothing), tools.slirp4netns(run=nothing)):
        assert not row.ok and row.detail == "not installed" and "apt install" in row.mend


def test_slirp4netns_tells_its_versions() -> None:
    row = tools.slirp4netns(run=saying(slirp4netns="slirp4netns version 1.2.0\ncommit: x\nlibslirp: 4.7.0\n"))
    assert row.ok and row.detail == "slirp4netns 1.2.0, libslirp 4.7.0"


def test_fuse_needs_the_device_and_the_program(tmp_path: Path) -> None:
    there = saying(fuse_overlayfs="fusermount3 version: 3.14.0\nfuse-overlayfs: version 1.10\n")
    device = tmp_path / "fuse"
    missing = tools.fuse("", run=there, device=str(device))
    assert not missing.ok and "ENOENT" in missing.detail and "modprobe fuse" in missing.mend
    device.write_text("")
    fine = tools.fuse("", run=there, device=str(device))
    assert fine.ok and "1.10" in fine.detail and fine.mend == ""
    half = tools.fuse("", run=saying(), device=str(device))
    assert not half.ok and half.mend == "sudo apt install fuse-overlayfs"


@pytest.mark.parametrize(
    ("container", "mend"),
    [("", "modprobe tun"), ("docker", "docker run --device /dev/net/tun"), ("podman", "podman run --device")],
)
def test_tun_by_where_we_are(tmp_path: Path, container: str, mend: str) -> None:
    row = tools.tun(container, device=str(tmp_path / "tun"))
    assert not row.ok and mend in row.mend


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_device_that_is_closed_to_us(tmp_path: Path) -> None:
    device = tmp_path / "tun"
    device.write_text("")
    device.chmod(0)
    row = tools.tun("", device=str(device))
    assert not row.ok and row.mend == f"sudo chmod 0666 {device}"


def test_nft_is_the_program() -> None:
    """A library alone loads no rules."""
    row = tools.nft(run=saying(nft="nftables v1.0.6 (Lester Gooch #5)\n", unshare=(1, "refused")))
    assert row.ok and row.detail == "nft 1.0.6"
    row = tools.nft(run=saying())
    assert not row.ok and row.mend == "sudo apt install nftables"


def test_nft_without_the_kernels_half() -> None:
    def run(args: Sequence[str]) -> tuple[int, str] | None:
        if args[-1] == "true":
            return 0, ""
        if "add table inet t" in args:
            return 1, "Error: Could not process rule:\n Operation not supported\n"
        return 0, "nftables v1.0.6\n"

    row = tools.nft(run=run)
    assert not row.ok and "Operation not supported" in row.detail and "nf_tables" in row.mend


# --- starting programs --------------------------------------------------------------------------


def script(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def test_output_has_both_streams_and_the_status(tmp_path: Path) -> None:
    text = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert tools.output([script(tmp_path / "both", text)]) == (3, "out\nerr\n")


def test_output_passes_on_no_more_of_the_environment_than_plans_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "1")
    text = "import os; print(*sorted(os.environ))"
    status, said = tools.output([script(tmp_path / "shown", text)]) or (1, "")
    assert status == 0
    assert set(said.split()) - {"LC_ALL", "LC_CTYPE"} <= set(fast.INFLUENCES)


def test_output_of_what_does_not_exist_or_start(tmp_path: Path) -> None:
    assert tools.output(["no-such-program-of-anybody"]) is None
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    assert tools.output([str(broken)]) is None


def test_output_of_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_TIMEOUT", 0.2)
    assert tools.output([script(tmp_path / "hang", "import time; time.sleep(60)")]) is None
