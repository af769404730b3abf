"""RUN: commands in sandboxes on the image's layers, what they see, and what becomes of what they change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from sandbox.errors import BuildError, SandboxError
from sandbox.image import garbage
from sandbox.image.build import running
from sandbox.image.build.commands import Mount
from sandbox.image.build.records import Records
from sandbox.image.build.running import Sandboxed
from sandbox.image.store import Store
from sandbox.profile import load
from tests.image.build.conftest import Build, Judge
from tests.image.build.rootfs import busybox
from tests.image.stored import put_image
from tests.support.needs import need

pytestmark = pytest.mark.integration


@pytest.fixture
def run(build: Build, capfd: pytest.CaptureFixture[str], tmp_home: Path) -> Build:
    """A `build` that executes, with a base image."""
    need("busybox")
    put_image(build.store, "base:1", [busybox()], {"Env": ["PATH=/bin"]})
    build.runner = Sandboxed(load("build"))
    return build


def limited(build: Build, **limits: object) -> Build:
    build.runner = Sandboxed(load("build", {f"limits.{name}": value for name, value in limits.items()}))
    return build


def output(build: Build, line: str, before: str = "", **settings: object) -> str:
    """What a command writes to /out of the image."""
    image = build(f"FROM base:1\n{before}\n{line}\n", **settings)
    return build.read(image, "out").decode()


# --- what it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "before", "expected"),
    [
        ("RUN echo $0 $A > /out", "ENV A=1", "/bin/sh 1\n"),
        ('RUN ["sh", "-c", "echo $A > /out"]', "ENV A=1", "1\n"),
        ("RUN echo $A$B > /out", "ARG A=1\nARG B", "1\n"),
        ("RUN echo $A > /out", "ARG A=arg\nENV A=env", "env\n"),
        ("RUN pwd > /out", "WORKDIR /w\nWORKDIR x", "/w/x\n"),
        ("RUN id > /out", "", "uid=0(root) gid=0(root)\n"),
        ("RUN echo $HOME > /out", "", "/root\n"),
        ("RUN id -u > out && echo $HOME >> out", "USER user\nWORKDIR /home/user", "1000\n/home/user\n"),
        ("RUN id -u > out", "WORKDIR /tmp\nUSER 12345:7", "12345\n"),
        ('RUN echo $0 > /out', 'SHELL ["/bin/ash", "-ec"]', "/bin/ash\n"),
        ("RUN false; echo $? > /out", "", "1\n"),
        ("RUN <<E\necho one > /out\necho $A >> /out\nE", "ENV A=1", "one\n1\n"),
        ("RUN <<E\n#!/bin/busybox ash\necho $1 > /out\nE", "", "\n"),
        ("RUN cat <<A > /out; cat <<'B' >> /out\n$V\nA\n$V\nB", "ENV V=v", "v\n$V\n"),
        ("RUN cat > /out", "", ""),
        ("RUN umask > /out", "", "0022\n"),
        ("RUN echo ${SANDBOX:-no} $container > /out", "", "no\n"),
    ],
)  # fmt: skip
def test_commands(run: Build, line: str, before: str, expected: str) -> None:
    if "WORKDIR" in before and "> out" in line:
        image = run(f"FROM base:1\n{before}\n{line}\n")
        where = "home/user/out" if "home" in before else "tmp/out"
        assert run.read(image, where).decode() == expected
    else:
        assert output(run, line, before) == expected


def test_what_it_changes_is_a_layer_and_nothing_else(run: Build, judged: Judge) -> None:
    image = run(
        "FROM base:1\n"
        "RUN mkdir -p /a/b && echo 1 > /a/b/c && chown 5:6 /a/b/c && rm /etc/group && chmod 700 /home\n"
        "RUN true\nRUN touch /tmp/x && rm /tmp/x\nRUN mkdir /run/d && touch /var/f\n",
        tag="judged",
    )
    assert len(image.manifest.layers) == 3, "commands that change nothing make no layer"
    before = run.tree(run.find("base:1"))
    tree = run.tree(image)
    assert sorted(set(tree) ^ set(before)) == [
        "a",
        "a/b",
        "a/b/c",
        "etc/group",
        "run",
        "run/d",
        "var",
        "var/f",
    ]
    assert (tree["a/b/c"].uid, tree["a/b/c"].gid, tree["home"].mode) == (5, 6, 0o700)
    root = judged(image)
    assert (root / "a/b/c").read_text() == "1\n"
    assert not (root / "etc/group").exists()


def test_where_the_kernel_makes_no_overlay(run: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fuse-overlayfs wrote is read as its."""
    from sandbox.host import trials
    from sandbox.host.model import Check

    need("fuse-overlayfs")

    def rows(found: object, helper: str, names: Iterable[str]) -> dict[str, Check]:
        return {name: Check(name, name != "overlay", False, "made up", "") for name in names}

    monkeypatch.setattr(trials, "rows", rows)
    run.write({"c/f": "F"})
    image = run(
        "FROM base:1\nRUN grep ' / ' /proc/mounts > /out && rm /etc/group && rm -r /home && mkdir /home\n"
        "RUN --mount=type=bind,source=c,target=/c,rw touch /c/g && ls /c > /listed\n"
    )
    assert "fuse" in run.read(image, "out").decode()
    assert run.read(image, "listed") == b"f\ng\n"
    tree = run.tree(image)
    assert ("home" in tree, "home/user" in tree, "etc/group" in tree, "c" in tree) == (
        True,
        False,
        False,
        False,
    )
    assert not [name for name in tree if ".wh." in name or name.endswith(".opq")]


def test_a_link_where_something_is_mounted_stays(run: Build) -> None:
    image = run("FROM base:1\nRUN ln -s ../run/resolv.conf /etc/other\nRUN touch /f\n")
    assert run.tree(image)["etc/other"].issym()
    (run.context / "l").mkdir()
    (run.context / "l/resolv.conf").symlink_to("../run/resolv.conf")
    image = run("FROM base:1\nCOPY l /etc\nRUN touch /f\n")
    assert run.tree(image)["etc/resolv.conf"].issym()


def test_layers_on_layers(run: Build) -> None:
    text = "FROM base:1\n" + "".join(f"RUN echo {n} >> /f && mkdir /d{n}\n" for n in range(4))
    image = run(text)
    assert run.read(image, "f") == b"0\n1\n2\n3\n"
    run(text + "RUN rm -r /d0 /d2\n")
    assert run.told.ran == ["RUN rm -r /d0 /d2"]


def test_the_same_again(run: Build) -> None:
    text = "FROM base:1\nRUN mkdir /d && echo 1 > /d/f && ln /d/f /d/g && rm -r /home\nCOPY <<f /x\n1\nf\n"
    run.runner = Sandboxed(load("build"), 1_000_000_000)
    first = run(text, epoch=1_000_000_000)
    second = run(text, epoch=1_000_000_000, cache=False)
    assert first.descriptor == second.descriptor


# --- what it may ----------------------------------------------------------------------------------------


def test_no_network(run: Build) -> None:
    assert output(run, "RUN ls /sys/class/net 2>/dev/null; wc -l < /proc/net/dev > /out") == "3\n"


def test_a_step_without_the_network_of_the_others(run: Build) -> None:
    run.runner = Sandboxed(load("build", {"net.mode": "host"}))
    line = "readlink /proc/self/ns/net >"
    image = run(f"FROM base:1\nRUN {line} /a\nRUN --network=none {line} /b\n", network="host")
    ours = os.readlink("/proc/self/ns/net")
    assert run.read(image, "a").decode().strip() == ours
    assert run.read(image, "b").decode().strip() != ours


def test_nothing_of_the_host(run: Build, tmp_home: Path) -> None:
    (tmp_home / "secret").write_text("secret")
    found = output(run, f"RUN ls {tmp_home} {run.context} /usr /work 2>&1 | sort > /out")
    assert "secret" not in found
    assert "context" not in "".join(each for each in found.splitlines() if "No such file" not in each)


@pytest.mark.parametrize(
    ("line", "limits", "message"),
    [
        ("RUN sleep 60", {"timeout": 0.3}, r"killed: timeout 300ms"),
        ("RUN yes", {"output": "64K"}, "killed: output limit 64K"),
        ("RUN while :; do :; done", {"cpu_time": 0.5}, "cpu_time limit 500ms"),
        ("RUN head -c 900000000 /dev/zero | tail", {"memory": "64M"}, "memory limit 64M"),
        ("RUN for i in 1 2 3 4 5 6 7 8 9; do sleep 9 & done", {"pids": 4}, "exit status|pids"),
        ("RUN exit 3", {}, "exit status 3"),
        ("RUN kill -TERM $$", {}, "killed by SIGTERM"),
        ("RUN nothere", {}, "exit status 127"),
        ('RUN ["/nothere"]', {}, "/nothere: No such file"),
        ("USER nobody\nRUN id", {}, "has not the user 'nobody'"),
        ("RUN --mount=type=secret,id=s,required true", {}, "the secret s is required"),
        ("RUN --mount=type=bind,source=none,target=/x true", {}, "there is no none"),
        ("RUN --mount=type=bind,source=../..,target=/x true", {}, "lies outside the context"),
        ("RUN --mount=type=bind,source=up,target=/x true", {}, "leads out"),
        ("RUN --mount=type=cache,target=/c,mode=x true", {}, "octal"),
        ("RUN --mount=type=tmpfs,target=/c,size=x true", {}, "size of --mount"),
        ("RUN --mount=type=cache,target=/proc true", {}, "can't replace /proc"),
        ("RUN --mount=type=cache,target=proc/../proc/sys true", {}, "can't replace /proc/sys"),
        ("RUN --mount=type=tmpfs,target=/ true", {}, "can't replace the whole root"),
    ],
)
def test_failures(run: Build, line: str, limits: dict[str, object], message: str) -> None:
    (run.context / "up").symlink_to("..")
    limited(run, **limits)
    with pytest.raises(SandboxError, match=message) as caught:
        run(f"FROM base:1\n{line}\n")
    assert caught.value.message.startswith(("file:2:", "file:3:")), "it says which step"
    assert run.store.get_ref("built:latest") is None
    assert list(Path(run.store.path).glob("work/*")) == []


@pytest.mark.parametrize(
    ("link", "target", "kind"),
    [
        ("/", "/p", "tmpfs"),
        ("/proc", "/p", "tmpfs"),
        ("/proc", "/p/sys", "cache"),
        ("../dev", "/p", "bind"),
        ("/dev/null", "/p", "bind,source=f"),
        ("/dev", "/p/null", "secret,id=s"),
    ],
)
def test_a_mount_through_a_link_replaces_nothing_of_ours(
    run: Build, link: str, target: str, kind: str
) -> None:
    run.write({"f": "1"})
    text = f"FROM base:1\nRUN ln -s {link} /p\nRUN --mount=type={kind},target={target} true\n"
    with pytest.raises(
        SandboxError, match=r"(?s)^file:3:.*/p.*what every sandbox has for itself.*as in /mnt"
    ):
        run(text, secrets={"s": b"1"})
    run("FROM base:1\nRUN ln -s /run /p\nRUN --mount=type=cache,target=/p touch /run/x && test -e /p/x\n")


def test_a_failure_shows_what_was_written_and_its_status(run: Build) -> None:
    with pytest.raises(BuildError, match=r"exit status 7\n.*\n.*\nit wrote:\nout\nerr$") as caught:
        run("FROM base:1\nRUN echo out; echo err >&2; exit 7\n")
    assert caught.value.status == 7


def test_what_is_not_cached_is_failure(run: Build) -> None:
    for _ in range(2):
        with pytest.raises(BuildError):
            run("FROM base:1\nRUN touch /x; exit 1\n")
        assert run.told.ran == ["RUN touch /x; exit 1"]


# --- mounts ---------------------------------------------------------------------------------------------


def test_a_cache_is_for_whom_it_says(run: Build) -> None:
    image = run(
        "FROM base:1\n"
        "RUN --mount=type=cache,target=/k,mode=0750 stat -c %a /k > /1\n"
        "USER user\n"
        "RUN --mount=type=cache,target=/l,uid=1000,gid=1000,mode=0700 touch /l/x; stat -c %u /l/x > /tmp/2\n"
    )
    assert [run.read(image, name) for name in ("1", "tmp/2")] == [b"750\n", b"1000\n"]


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_a_cache_that_is_pruned_before_it_is_locked(
    run: Build, monkeypatch: pytest.MonkeyPatch, sharing: str
) -> None:
    real = running._open_cache

    def opened(store: Store, path: str, mount: Mount) -> int:
        fd = real(store, path, mount)
        monkeypatch.setattr(running, "_open_cache", real)
        store.unpacked.discard(path)
        return fd

    monkeypatch.setattr(running, "_open_cache", opened)
    run(f"FROM base:1\nRUN --mount=type=cache,target=/c,sharing={sharing} touch /c/x\n")


def test_secrets_are_seen_and_not_kept(run: Build, tmp_path: Path) -> None:
    content = b"a secret that is nowhere else"
    text = (
        "FROM base:1\n"
        "RUN --mount=type=secret,id=s cat /run/secrets/s | wc -c > /1\n"
        "RUN --mount=type=secret,id=s,target=/root/k/t,mode=0440 stat -c %a /root/k/t > /2\n"
        "RUN --mount=type=secret,id=s,env=S echo ${#S} > /3; ls /run/secrets 2>&1 | wc -l >> /3\n"
        "RUN --mount=type=secret,id=none ls /run/secrets > /4 2>&1 || true\n"
        "USER user\n"
        "RUN --mount=type=secret,id=s,uid=1000 wc -c < /run/secrets/s > /tmp/5\n"
    )
    image = run(text, secrets={"s": content})
    size = f"{len(content)}\n"
    assert [run.read(image, name).decode() for name in ("1", "2", "3", "tmp/5")] == [
        size,
        "440\n",
        size + "1\n",
        size,
    ]
    assert "run/secrets" not in run.tree(image)
    assert "root/k" not in run.tree(image)
    for path in [*Path(run.store.path).rglob("*")]:
        if path.is_file() and os.access(path, os.R_OK):
            assert content not in path.read_bytes(), path
    run(text, secrets={"s": b"another"})
    assert run.told.ran == [], "the content of a secret is no part of a key"


def test_a_secret_that_no_variable_can_have(run: Build) -> None:
    with pytest.raises(BuildError, match=r"file:2:1: the secret s has a null byte"):
        run("FROM base:1\nRUN --mount=type=secret,id=s,env=S true\n", secrets={"s": b"a\0b"})
    run("FROM base:1\nRUN --mount=type=secret,id=s test -s /run/secrets/s\n", secrets={"s": b"a\0b"})


def test_caches_stay_and_are_no_layer(run: Build) -> None:
    line = "RUN --mount=type=cache,target=/c,id={id} echo x >> /c/f; wc -l < /c/f > /out"
    assert output(run, line.format(id="a")) == "1\n"
    assert output(run, line.format(id="a"), cache=False) == "2\n"
    assert output(run, line.format(id="b")) == "1\n"
    assert "c" not in run.tree(run(f"FROM base:1\n{line.format(id='a')}\n"))
    user = "RUN --mount=type=cache,target=/c,id=a,ro touch /c/no 2>/dev/null || wc -l < /c/f > /out"
    assert output(run, user) == "2\n"
    assert len(Records(run.store.path).old_mounts(0)) == 2
    garbage.prune(run.store)
    assert len(Records(run.store.path).old_mounts(0)) == 2, "they are not old"
    garbage.prune(run.store, builds=True)
    assert Records(run.store.path).old_mounts(0) == []


def test_private_caches(run: Build) -> None:
    line = "RUN --mount=type=cache,target=/c,sharing=private echo x >> /c/f; wc -l < /c/f > /out"
    assert output(run, line) == "1\n"
    assert output(run, line, cache=False) == "2\n"


def test_binds_are_snapshots(run: Build) -> None:
    run.write({"d/f": "1", "d/hidden": "no", "one": "2"})
    text = (
        "FROM base:1 AS other\nRUN echo made > /made\n"
        "FROM base:1\n"
        "RUN --mount=type=bind,source=d,target=/b "
        "ls /b > /out; cat /b/f >> /out; touch /b/x 2>/dev/null || echo ro >> /out\n"
        "RUN --mount=source=one,target=/o/n cat /o/n >> /out\n"
        "RUN --mount=from=other,source=/made,target=/m cat /m >> /out\n"
        "RUN --mount=target=/all,rw touch /all/x && ls /all >> /out\n"
        "RUN --mount=from=base:1,target=/img ls /img/etc >> /out\n"
    )
    image = run(text, ignore="**/hidden\n.dockerignore")
    expected = "f\n1ro\n2made\nd\none\nx\ngroup\npasswd\n"
    assert run.read(image, "out").decode() == expected
    assert sorted(set(run.tree(image)) - set(run.tree(run.find("base:1")))) == ["out"]
    assert sorted(os.listdir(run.context)) == [".dockerignore", "d", "one"]
    run(text)
    assert run.told.ran == []
    run.write({"d/f": "3"})
    run(text)
    assert len(run.told.ran) == 5
    assert run.told.reasons[0] == ["a --mount is another"] or "mount" in run.told.reasons[0][0]


def test_tmpfs(run: Build) -> None:
    line = "RUN --mount=type=tmpfs,target=/t,size=1M yes > /t/f 2>/dev/null; wc -c < /t/f > /out"
    assert int(output(run, line)) <= 1 << 20


# --- leftovers ------------------------------------------------------------------------------------------


def test_work_of_a_killed_build_is_removed(run: Build) -> None:
    """What the payload left belongs to other ids, and is not to be entered."""
    run("FROM base:1\nRUN true\n")  # so that nothing is to be unpacked later, which also cleans up
    with run.store.unpacked.workplace("build-1-dead") as work:
        upper = Path(work, "files")
        upper.mkdir()
        script = "mkdir -p upper/d work && touch upper/d/f && chown -R 7 upper/d && chmod 000 upper/d"
        unshare = ["unshare", "--user", "--map-root-user", "--map-auto"]
        subprocess.run([*unshare, "sh", "-ec", script], cwd=upper, check=True)
        os.rename(work, work + ".left")
    left = Path(work + ".left")
    assert left.exists()
    run("FROM base:1\nRUN :\n")
    assert not left.exists()
