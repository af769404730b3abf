"""Images as roots: what a command in one sees and may, and that its layers stay while it runs."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import host as hosts
from sandbox.box import Boxes
from sandbox.errors import ImageError, ProfileError, SandboxError
from sandbox.host.model import Check
from sandbox.image import garbage
from sandbox.image.store import Store
from sandbox.launch.prepare import prepare
from sandbox.plan import roots
from sandbox.plan.image import stop_signal
from sandbox.plan.layers import Settings
from tests.image.layer.archives import Item, archive, directory, file, symlink
from tests.image.stored import put_image
from tests.support.needs import need
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.as_root]

ROOT = Path(__file__).resolve().parents[2]
BUSYBOX = "/bin/busybox"
TOOLS = (
    *("sh", "ls", "cat", "id", "pwd", "env", "touch", "stat", "mount", "ps", "rm", "mkdir", "chown", "grep"),
    *("true", "echo", "sleep", "mknod", "test", "head", "wc", "find"),
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000:node:/home/node:/bin/sh\n"
GROUP = b"root:x:0:\nnode:x:1000:\nvideo:x:44:node\n"


def rootfs(*more: Item) -> list[Item]:
    """A small root file system with busybox."""
    with open(BUSYBOX, "rb") as program:
        busybox = program.read()
    return [
        *(directory(each) for each in ("bin", "etc", "root", "home")),
        directory("tmp", 0o1777),
        directory("home/node", uid=1000, gid=1000),
        file("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{each}", "busybox") for each in TOOLS),
        file("etc/passwd", PASSWD),
        file("etc/group", GROUP),
        *more,
    ]


BASE = archive(*rootfs())


@pytest.fixture
def store(tmp_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    need("userns", "busybox")
    if os.geteuid():
        need("idrange")
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    monkeypatch.chdir(work)
    made = Store()
    yield made
    for key in made.unpacked.all():
        made.unpacked.discard(made.unpacked.set_aside(key))
    made.unpacked.recover()


def put(store: Store, *layers: Any, name: str = "docker.io/library/base:latest", **config: Any) -> None:
    put_image(store, name, layers or [BASE], config)


def run(script: str, **options: Any) -> sandbox.Result:
    options.setdefault("profile", "test")
    return sandbox.run(["sh", "-c", script], image="base", text=True, **options)


def lines(script: str, **options: Any) -> list[str]:
    done = run(script, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout).splitlines()


def test_root_has_the_image_and_writes_to_it(store: Store) -> None:
    put(store)
    script = "id -u; touch /x /etc/y /home/node/z && ls /x; chown 1000:1000 /x && stat -c %u:%g /x; "
    script += "cat /etc/passwd"
    said = lines(script)
    assert said[:3] == ["0", "/x", "1000:1000"]
    assert "\n".join(said[3:]) + "\n" == PASSWD.decode()
    assert lines("test -e /x || echo gone") == ["gone"]


def test_what_the_image_says_of_its_processes(store: Store) -> None:
    put(
        store,
        Entrypoint=["sh", "-c", 'echo "$0"; "$@"', "entry"],
        Cmd=["cmd"],
        Env=["A=b", "PATH=/bin", "LANG=C.UTF-8"],
        User="node",
        WorkingDir="/srv/app",
        Volumes={"/data": {}},
    )
    done = sandbox.run(["sh", "-c", "id; pwd; env"], image="base", profile="test", text=True)
    said = str(done.stdout).splitlines()
    assert said[0] == "entry"
    assert said[1] == "uid=1000(node) gid=1000(node) groups=44(video)"
    assert said[2] == "/srv/app"
    assert {"A=b", "PATH=/bin", "LANG=C.UTF-8", "HOME=/home/node", "USER=node"} <= set(said)
    options = {"user": "root", "workdir": "/root", "overrides": {"env.set": {"A": "c"}}}
    done = sandbox.run(["sh", "-c", "id -u; pwd; env"], image="base", profile="test", text=True, **options)
    assert {"0", "/root", "A=c", "HOME=/root"} <= set(str(done.stdout).splitlines())


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("node", "uid=1000(node) gid=1000(node) groups=44(video)"),
        ("1000", "uid=1000(node) gid=1000(node) groups=44(video)"),
        ("node:video", "uid=1000(node) gid=44(video)"),
        ("root:video", "uid=0(root) gid=44(video)"),
        ("7:video", "uid=7 gid=44(video)"),
    ],
)
def test_a_user_by_the_images_own_accounts(store: Store, user: str, said: str) -> None:
    put(store)
    assert lines("id", user=user) == [said]
    if user == "node":
        assert lines("cd; pwd; echo $USER; touch mine", user=user) == ["/home/node", "node"]


@pytest.mark.parametrize(
    ("user", "said", "mend"),
    [
        ("noed", "has not the user 'noed' in its /etc/passwd; did you mean \"node\"?", "-u root"),
        ("node:vidoe", "has not the group 'vidoe' in its /etc/group; did you mean \"video\"?", "-u UID:GID"),
        ("strange", "has not a usable line for 'strange'", "-u root"),
    ],
)
def test_a_user_that_the_image_has_not(store: Store, user: str, said: str, mend: str) -> None:
    put(store, archive(*rootfs(file("etc/passwd", PASSWD + b"strange:x:1_0:0:::\n"))))
    with pytest.raises(ProfileError) as raised:
        run("true", user=user)
    assert said in raised.value.message and mend in (raised.value.mend or "")


def test_accounts_of_an_image_are_read_through_no_link(store: Store, tmp_path: Path) -> None:
    """A link would be followed on the host: its accounts, or what never ends."""
    (tmp_path / "passwd").write_text("node:x:0:0::/:/bin/sh\n")
    for target in (str(tmp_path / "passwd"), "/dev/zero"):
        base = [each for each in rootfs() if each.name != "etc/passwd"]
        put(store, archive(*base, symlink("etc/passwd", target)))
        with pytest.raises(ProfileError, match="has not the user"):
            run("true", user="node")


def test_a_user_of_a_directorys_accounts(store: Store, tmp_path: Path) -> None:
    for name in ("bin", "etc", "home/node"):
        (tmp_path / "root" / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tmp_path / "root/bin/busybox")
    (tmp_path / "root/etc/passwd").write_bytes(PASSWD)
    (tmp_path / "root/etc/group").write_bytes(GROUP)
    root = str(tmp_path / "root")
    done = sandbox.run(
        ["/bin/busybox", "id"], profile="test", root=f"dir:{root}", user="node:video", text=True
    )
    assert str(done.stdout).startswith("uid=1000(node) gid=44(video)"), done.stderr
    with pytest.raises(ProfileError, match="has not the user 'web'"):
        sandbox.run(["/bin/busybox", "id"], profile="test", root=f"dir:{root}", user="web")
    layers = {"root": "empty", "layers": [root], "user": "node"}
    done = sandbox.run(["/bin/busybox", "id"], profile="test", text=True, **layers)
    assert str(done.stdout).startswith("uid=1000(node) gid=1000(node)"), done.stderr


def test_a_user_who_was_added_in_a_kept_sandbox(store: Store, sandbox_cmd: Callable[..., Any]) -> None:
    put(store)
    add = "echo late:x:70:70::/tmp:/bin/sh >> /etc/passwd"
    first = sandbox_cmd(
        "run", "-p", "test", "--name", "b", "--keep", "--image", "base", "--", "sh", "-c", add
    )
    assert first.returncode == 0, first.stderr
    assert sandbox_cmd("run", "-p", "test", "--name", "b", "-u", "late", "--", "id", "-u").stdout == "70\n"
    wrong = sandbox_cmd("run", "-p", "test", "--name", "b", "-u", "lat", "--", "id", "-u")
    assert wrong.returncode == 125 and 'did you mean "late"?' in wrong.stderr and "mend: " in wrong.stderr


@pytest.mark.parametrize(
    ("options", "command", "said"),
    [
        ((), (), "entry cmd"),
        ((), ("x",), "entry x"),
        (("--entrypoint", "echo"), (), ""),  # the image's own command was for its own entry point
        (("--entrypoint", "echo"), ("x", "y"), "x y"),
        (("--entrypoint=", "--"), ("echo", "x"), "x"),
        (("--entrypoint", '["echo", "a b"]'), ("x",), "a b x"),
    ],
    ids=str,
)
def test_entry_points(
    store: Store, sandbox_cmd: Callable[..., Any], options: tuple[str], command: tuple[str], said: str
) -> None:
    put(store, Entrypoint=["echo", "entry"], Cmd=["cmd"])
    for _ in range(2):  # made, and from the cache
        done = sandbox_cmd("run", "-p", "test", "--image", "base", *options, *command)
        assert (done.returncode, done.stdout) == (0, said + "\n"), done.stderr


def test_entry_points_in_profiles_and_calls(store: Store, sandbox_cmd: Callable[..., Any]) -> None:
    put(store, Entrypoint=["echo", "entry"], Cmd=["cmd"])
    profile = Path("p.toml")
    profile.write_text('extends = "test"\nroot.from = "image:base"\nentrypoint = ["echo", "mine"]\n')
    assert sandbox_cmd("run", "-p", "./p.toml").stdout == "mine\n"
    profile.write_text(profile.read_text() + 'command = ["too"]\n')
    assert sandbox_cmd("run", "-p", "./p.toml").stdout == "mine too\n"
    assert sandbox_cmd("run", "-p", "./p.toml", "--entrypoint", "", "pwd").stdout.startswith("/")
    assert run("", entrypoint=["echo"]).stdout == "sh -c \n"
    with sandbox.Sandbox("test", image="base", entrypoint=["echo"]) as box:  # `exec`: no entry point at all
        assert box.run(["pwd"], text=True).stdout.startswith("/")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--entrypoint", ""), "no command: name one"),
        (("--entrypoint", '["sh"'), "is no JSON list"),
        (("--entrypoint", "[1]"), "must be a text"),
        (("--entrypoint", '[""]', "x"), "no usable command"),
        (("--entrypoint",), "expected one argument"),
        (("--entrypoint", "/bin/none", "x"), "none"),
    ],
    ids=str,
)
def test_entry_points_that_are_none(
    store: Store, sandbox_cmd: Callable[..., Any], options: tuple[str], said: str
) -> None:
    put(store, Entrypoint=["echo"], Cmd=["cmd"])
    done = sandbox_cmd("run", "-p", "test", "--image", "base", *options)
    assert said in done.stderr and done.returncode in (125, 127) and "Traceback" not in done.stderr


#: ends by SIGUSR1 alone, and says so
ASKED = "trap 'echo asked; exit 3' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done"


def _asked(box: sandbox.Sandbox, script: str = ASKED) -> sandbox.Process:
    process = box.popen(["sh", "-c", script], stdout=sandbox.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_command_is_asked_to_end_as_its_image_says(store: Store) -> None:
    put(store, StopSignal="SIGUSR1")
    with sandbox.Sandbox("test", image="base") as box:
        with _asked(box) as process:
            assert process.stop(timeout=PATIENCE) == 3
            assert process.stdout.read() == "asked\n"
        with _asked(box, "trap '' USR1; echo ready; while :; do sleep 0.05; done") as deaf:
            assert deaf.stop(timeout=0.2) == -signal.SIGKILL
        with _asked(box) as one, _asked(box) as other:
            assert box.run(["true"]).returncode == 0
            box.stop(timeout=PATIENCE)
            assert box.closed and [one.wait(), other.wait()] == [3, 3]
        box.stop()  # again is no error


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("kill", 9),
        ("37", 37),
        ("SIGRTMIN+3", 37),  # systemd's, in many an image
        ("rtmin+0", 34),
        ("RTMAX-1", 63),
        ("SIGRTMIN+30", 64),
        ("RTMAX-30", 34),
        ("SIGRTMIN+31", 0),
        ("SIGRTMIN-1", 0),
        ("RTMAX-", 0),
        ("0", 0),
        ("65", 0),
    ],
)
def test_words_for_signals(text: str, number: int) -> None:
    settings = Settings("x", stop_signal=text)
    if number:
        assert stop_signal(settings) == number
        return
    with pytest.raises(ImageError, match="stop signal"):
        stop_signal(settings)


def test_without_a_word_of_the_image_it_is_sigterm(store: Store) -> None:
    put(store)
    with sandbox.Sandbox("test", image="base") as box:
        with _asked(box, "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done") as heard:
            assert heard.stop(60) == 4
        with _asked(box) as deaf:
            box.stop(timeout=0.2)
            assert deaf.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 3), (signal.SIGINT, 130)], ids=str)
def test_sigterm_asks_the_command_as_its_image_says(store: Store, sent: signal.Signals, status: int) -> None:
    """SIGINT is somebody's Ctrl-C, and passed on as it is."""
    put(store, StopSignal="SIGUSR1")
    words = [sys.executable, "-m", "sandbox", "run", "-q", "-p", "test", "--image", "base", "sh", "-c", ASKED]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **quiet) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            process.send_signal(sent)
            assert process.wait(timeout=PATIENCE) == status
        finally:
            process.kill()  # and its supervisor ends the command, which would ignore SIGTERM


def test_a_read_only_root_has_writable_volumes(store: Store) -> None:
    put(
        store, archive(*rootfs(directory("data"), file("data/old", b"1"))), Volumes={"/data": {}, "/more": {}}
    )
    script = "touch /x 2>/dev/null || echo ro; cat /data/old; "
    script += "touch /data/new /more/new /tmp/new /root/new && echo rw"
    assert lines(script, writable="no") == ["ro", "1rw"]


def test_what_is_written_in_memory_has_a_size(store: Store) -> None:
    put(store)
    script = "dd if=/dev/zero of=/x bs=4096 count=1000 2>/dev/null || stat -c %s /x"
    given = {"root.writable": "memory", "root.size": "1M"}
    assert lines(script, overrides=given) == [str(1 << 20)]


def test_layers_of_images_and_directories(store: Store, tmp_path: Path) -> None:
    put(store)
    put(store, archive(directory("opt"), file("opt/tool", b"tool")), name="docker.io/library/tools:latest")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "here").write_text("mine")
    layers = ["image:tools", str(tmp_path / "plain")]
    assert lines("cat /opt/tool /here; touch /y", layers=layers) == ["toolmine"]
    assert os.listdir(tmp_path / "plain") == ["here"]


def test_its_layers_stay_while_it_runs(store: Store) -> None:
    put(store)
    with sandbox.Sandbox("test", image="base") as box:
        assert box.run(["cat", "/etc/group"]).stdout == GROUP
        freed = garbage.prune(store, unpacked=True)
        assert (freed.layers, freed.kept) == (0, 1)
        assert box.run(["ls", "/bin/busybox"]).returncode == 0
    assert garbage.prune(store, unpacked=True).layers == 1
    assert lines("echo again") == ["again"]  # a plan that was kept, and layers that are made anew


def test_a_killed_supervisor_gives_them_up(store: Store) -> None:
    put(store)
    box = sandbox.Sandbox("test", image="base")
    box._channel.helper.kill()
    box._channel.helper.wait()
    assert garbage.prune(store, unpacked=True).layers == 1
    box.close()


def test_a_cached_command_makes_them_anew(store: Store, sandbox_cmd: Callable[..., Any]) -> None:
    put(store, Cmd=["sh", "-c", "echo default"])
    for _ in range(2):
        assert sandbox_cmd("run", "-p", "test", "--image", "base").stdout == "default\n"
        assert sandbox_cmd("run", "-p", "test", "--image", "base", "--", "pwd").returncode == 0
    assert garbage.prune(store, unpacked=True).layers == 1
    assert sandbox_cmd("run", "-p", "test", "--image", "base", "--", "id", "-u").stdout == "0\n"


def test_many_at_once(store: Store) -> None:
    put(store)
    with sandbox.Sandbox("test", image="base") as one, sandbox.Sandbox("test", image="base") as other:
        one.write_file("/tmp/x", "1")
        assert other.run(["test", "-e", "/tmp/x"]).returncode == 1
        assert one.run(["touch", "/bin/new"]).returncode == 0
        assert other.run(["ls", "/bin/new"]).returncode == 1


def test_capabilities_of_root(store: Store) -> None:
    put(store)
    (found,) = lines("grep CapEff /proc/self/status")
    # docker's default less NET_RAW and MKNOD
    assert int(found.split()[1], 16) == 0xA80425FB & ~(1 << 13) & ~(1 << 27)
    assert run("mknod /dev/null0 c 1 3").returncode != 0
    (none,) = lines("grep CapEff /proc/self/status", profile="untrusted")
    assert int(none.split()[1], 16) == 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"User": "1000abc"}, "1000abc"),
        ({"User": "-1"}, "-1"),
        ({"User": "nobody:nogroup"}, "nobody"),
        ({"User": "node:4294967296"}, "group"),
        ({"User": "1500000000"}, "1500000000"),
        ({"Env": ["A\0=b"]}, "NUL"),
        ({"Env": ["=b"]}, "sets no variable"),
        ({"Cmd": ["a\0b"], "Entrypoint": ["x\0"]}, "NUL"),
        ({"Volumes": {f"/v{n}": {} for n in range(10_000)}}, "volumes"),
        ({"StopSignal": "SIGNONE"}, "stop signal"),
        ({"WorkingDir": "/a\0b"}, "NUL"),
        ({"Entrypoint": "sh"}, "Entrypoint"),
    ],
    ids=str,
)
def test_what_an_image_says_that_makes_no_sense(store: Store, config: dict[str, Any], said: str) -> None:
    with pytest.raises(SandboxError) as raised:
        put(store, **config)  # some is refused with the configuration
        run("true")
    assert said in raised.value.message and "\0" not in raised.value.message


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"WorkingDir": "/etc/passwd"}, {}),
        ({"WorkingDir": "/proc/self/root"}, {}),
        ({"Volumes": {"/etc/passwd": {}}}, {}),
        ({"Volumes": {"/bin/busybox": {}}}, {"overrides": {"root.writable": "no"}}),
    ],
    ids=str,
)
def test_a_directory_that_an_image_can_not_have_names_it(
    store: Store, config: dict[str, Any], options: dict[str, Any]
) -> None:
    put(store, **config)
    with pytest.raises(SandboxError) as raised:
        run("true", **options)
    assert "the image base" in raised.value.message
    if "WorkingDir" in config:
        assert run("pwd", workdir="/home", **options).stdout == "/home\n"


def test_a_kept_sandbox_whose_directory_is_gone_names_the_image(store: Store) -> None:
    put(store, WorkingDir="/home/node")
    run("rm -r /home/node && touch /home/node", name="k", keep=True)
    with pytest.raises(SandboxError, match=r"(?s)/home/node: Not a directory \(the image base.*--workdir"):
        sandbox.run(["true"], name="k")
    assert sandbox.run(["/bin/pwd"], name="k", workdir="/", text=True).stdout == "/\n"
    Boxes().remove("k")


@pytest.mark.parametrize(
    "config",
    [
        {"WorkingDir": "../.."},
        {"WorkingDir": "srv/../../../x"},
        {"Volumes": {"/": {}, "/proc": {}, "/dev/shm": {}, "/sys/x": {}, "/etc": {}, "../..": {}}},
        {"Env": ["A=b\nc", "LD_PRELOAD=/nowhere.so", "HOME=/\nx"]},
        {"StopSignal": "term"},
        {"User": "0"},
        {"User": ":0"},
    ],
    ids=str,
)
def test_what_an_image_says_that_does_no_harm(store: Store, config: dict[str, Any]) -> None:
    put(store, **config)
    assert lines("ls /bin/busybox; test -d /proc/self && echo proc") == ["/bin/busybox", "proc"]


@pytest.mark.parametrize("name", ["dev", "proc"])
def test_a_link_where_every_sandbox_has_its_own(store: Store, name: str) -> None:
    put(store, archive(*rootfs(symlink(name, "/tmp"))))
    with pytest.raises(SandboxError, match=r"symbolic link|[nN]ot a directory"):
        run("true")


@pytest.mark.parametrize("to", ["/", "proc", "/proc/sys", "/dev", "dev/pts"])
def test_a_mount_through_a_link_replaces_nothing_of_ours(store: Store, tmp_path: Path, to: str) -> None:
    put(store, archive(*rootfs(symlink("p", to))), Volumes={"/p": {}})
    assert lines("test -e /proc/self -a -c /dev/null -a -e /bin/sh && echo as ever") == ["as ever"]
    with pytest.raises(SandboxError, match=r"(?s)/p.*what every sandbox has for itself.*as in /mnt"):
        run("true", mounts={"/p": {"source": str(tmp_path), "mode": "ro"}})
    with pytest.raises(SandboxError, match=r"/p: (a symbolic link|.*what every sandbox has for itself)"):
        run("true", writable="no")  # where volumes are mounts


def hostile_roots(outside: str) -> Iterator[tuple[str, list[Item]]]:
    parts = [each for each in rootfs() if each.name not in ("etc", "etc/passwd", "etc/group", "tmp")]
    yield "etc leads out", [*parts, symlink("etc", outside)]
    yield "tmp leads out", [*parts, directory("etc"), symlink("tmp", outside)]
    yield "passwd leads out", [*parts, directory("etc"), symlink("etc/passwd", f"{outside}/secret")]
    yield "passwd is a fifo", [*parts, directory("etc"), Item("fifo", "etc/passwd")]
    yield "passwd is huge", [*parts, directory("etc"), file("etc/passwd", b"x" * (2 << 20))]
    yield "resolv.conf leads out", [*parts, directory("etc"), symlink("etc/resolv.conf", f"{outside}/new")]
    yield (
        "hosts leads out",
        [*parts, directory("etc"), symlink("etc/hosts", "../../.." + outside + "/secret")],
    )


@pytest.mark.parametrize("number", range(7))
def test_hostile_roots_reach_nothing_of_the_host(store: Store, tmp_path: Path, number: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    (outside / "secret").write_text("root:x:0:0:root:/secret:/bin/sh\n")
    name, items = list(hostile_roots(str(outside)))[number]
    put(store, archive(*items))
    try:
        done = run("echo $HOME; cat /etc/hosts", writable="memory")
    except SandboxError as error:
        assert error.message, name
    else:
        assert "secret" not in str(done.stdout), name
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "root:x:0:0:root:/secret:/bin/sh\n"


def test_an_untrusted_project_chooses_no_image(store: Store, sandbox_cmd: Callable[..., Any]) -> None:
    put(store)
    Path("sandbox.toml").write_text('[root]\nfrom = "image:base"\n')
    done = sandbox_cmd("run", "--", "true")
    assert done.returncode == 125 and "sandbox profile trust" in done.stderr


def test_a_missing_image_says_so(store: Store) -> None:
    with pytest.raises(ImageError):
        sandbox.run(["true"], image="localhost:1/none", profile="test")


def test_explain_names_the_image(store: Store, sandbox_cmd: Callable[..., Any]) -> None:
    put(store, Cmd=["sh", "-c", "exit 3"])
    done = sandbox_cmd("explain", "-p", "test", "--image", "base")
    assert 'from = "image:base"' in done.stdout and "run: sh -c 'exit 3'" in done.stdout


def test_the_report_of_an_image(store: Store, tmp_path: Path, sandbox_cmd: Callable[..., Any]) -> None:
    put(store)
    report = tmp_path / "report.json"
    done: subprocess.CompletedProcess[str] = sandbox_cmd(
        "run", "-p", "test", "--image", "base", "--report", report, "--", "sh", "-c", "exit 7"
    )
    assert (done.returncode, json.loads(report.read_text())["verdict"]) == (7, "nonzero")


# --- drivers ---------------------------------------------------------------------------------------

DRIVERS = ["overlay", "fuse-overlayfs"]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("writable", ["no", "memory", "disk"])
def test_both_drivers(store: Store, driver: str, writable: str) -> None:
    need("fuse-overlayfs") if driver != "overlay" else None
    put(store, BASE, archive(file("upper", b"2"), directory("opt"), file("opt/x", b"x")))
    script = "cat /upper; touch /new 2>/dev/null && ls /new; rm -r /opt 2>/dev/null && ls /; id -u"
    said = lines(script, driver=driver, writable=writable)
    if writable == "no":
        assert said == ["20"]
    else:
        assert said[0] == "2/new" and "opt" not in said and said[-1] == "0"
    assert lines("cat /opt/x", driver=driver) == ["x"]


def test_fuse_on_directories_alone(store: Store, tmp_path: Path) -> None:
    """Where nobody is root inside, the program has the rights over files that init has."""
    need("fuse-overlayfs")
    (tmp_path / "one" / "bin").mkdir(parents=True)
    (tmp_path / "one" / "bin" / "sh").write_bytes(Path(BUSYBOX).read_bytes())
    (tmp_path / "one" / "bin" / "sh").chmod(0o755)
    (tmp_path / "two").mkdir()
    layers = [str(tmp_path / "one"), str(tmp_path / "two")]
    done = sandbox.run(
        ["sh", "-c", "echo 1 > /new && echo $(cat /new)"],
        profile="untrusted",
        driver="fuse-overlayfs",
        text=True,
        root="empty",
        layers=layers,
        writable="memory",
    )
    assert (done.returncode, done.stderr) in ((0, ""), (0, "sh: cat: not found\n"))
    assert os.listdir(tmp_path / "two") == []


def fuse_processes() -> set[str]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue
        if b"fuse-overlayfs" in line.split(b"\0")[0]:
            found.add(pid)
    return found


def test_fuse_ends_with_the_sandbox_however_that_goes(store: Store) -> None:
    need("fuse-overlayfs")
    put(store)
    before = fuse_processes()
    box = sandbox.Sandbox("test", image="base", driver="fuse-overlayfs")
    assert box.run(["ls", "/bin/busybox"]).returncode == 0
    ends = [os.pidfd_open(int(each)) for each in fuse_processes() - before]
    assert ends
    box._channel.helper.kill()
    for end in ends:
        assert select.select([end], [], [], 30)[0]
        os.close(end)
    box.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root has ids without a range of its own")
def test_without_a_range_all_is_the_users_own_and_that_is_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hosts.gather

    def without(**how: Any) -> Any:
        found = real(**how)
        checks = {name: row for name, row in found.host.checks.items() if name != "idrange"}
        bare = {"subuid": (), "subgid": (), "newuidmap": None, "newgidmap": None, "checks": checks}
        return found._replace(host=dataclasses.replace(found.host, **bare))

    put(store)
    with monkeypatch.context() as patch:
        patch.setattr(hosts, "gather", without)
        said = lines("id -u; stat -c %u /home/node; touch /home/node/x && echo made", hostname="single")
        prepared = prepare("test", {"root.from": "image:base"}, os.getcwd(), dict(os.environ))
    assert said == ["0", "0", "made"]
    assert prepared.plan.ids.single
    assert any("belong to other users in the image, and to root here" in each for each in prepared.plan.notes)


def test_fuse_where_the_kernel_makes_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_home: Path
) -> None:
    """Nothing is chosen, and the trial says that overlays don't work: a run, and a box for good."""
    from sandbox.box.keeping import box_for
    from sandbox.host import trials

    need("fuse-overlayfs")
    put(store)

    def rows(found: object, helper: str, names: Iterable[str]) -> dict[str, Check]:
        return {name: Check(name, name != "overlay", False, "made up", "") for name in names}

    monkeypatch.setattr(trials, "rows", rows)
    assert "fuse" in run("grep ' / ' /proc/mounts").stdout
    box = box_for("b", True, "test", {"root.from": "image:base"}, os.getcwd(), None)
    assert box is not None and box.record.driver == "fuse-overlayfs"
    box.close()
    Boxes(store).remove("b")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(roots, "_PLACES", ())
    with pytest.raises(SandboxError, match="cannot mount an overlay on this machine: made up"):
        run("true", hostname="another")


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_root_inside_has_nothing_to_say_to_fuse(store: Store, nested: bool) -> None:
    """Neither a signal nor a look into it: it is nobody that there is inside."""
    need("fuse-overlayfs")
    put(store)
    script = "id -u; cat /proc/2/comm; for n in 9 15 19; do kill -$n 2 || echo no; done; kill -9 -1; "
    script += "ls /proc/2/fd || echo no; cat /proc/2/root/etc/passwd || echo no; cat /proc/2/mem || echo no; "
    script += "cat /proc/2/status | grep Uid; touch /new; ls /new /bin/busybox"
    said = lines(
        script, driver="fuse-overlayfs", nested=nested, capabilities=["KILL", "SYS_PTRACE", "SETUID"]
    )
    assert said[:2] == ["0", "fuse-overlayfs"] and said[2:8] == ["no"] * 6
    assert said[8].split()[1:] == ["65534"] * 4 and said[9:] == ["/bin/busybox", "/new"]
    assert run("chown 65535 /new", driver="fuse-overlayfs").returncode != 0  # who it is, nobody can be


def test_fuse_that_ends_too_early_is_told(store: Store, tmp_path: Path) -> None:
    """With one id whoever runs inside can end it. That ends the sandbox, and says why; and nothing else."""
    need("fuse-overlayfs")
    (tmp_path / "one" / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, tmp_path / "one" / "bin" / "sh")
    options = {"driver": "fuse-overlayfs", "root": "empty", "writable": "memory", "ids": "single"}
    options |= {"layers": [str(tmp_path / "one")], "profile": "untrusted", "text": True}
    script = "trap '' TERM; kill -9 2; while :; do :; done"
    done = sandbox.run(["sh", "-c", script], timeout=PATIENCE, **options)
    assert done.verdict == "killed" and "fuse-overlayfs" in done.message
    with sandbox.Sandbox(**{name: each for name, each in options.items() if name != "text"}) as box:
        process = box.popen(["sh", "-c", script])
        process.wait()
        assert process.result is not None and "fuse-overlayfs" in process.result.message
        wait_until(lambda: box.closed)
    assert sandbox.run(["sh", "-c", "echo again"], **options).stdout == "again\n"


def test_a_layer_below_is_not_looked_through_by_either(store: Store) -> None:
    """Opaque directories hide: without userxattr the kernel would show what is below."""
    whiteouts = archive(directory("opt"), file("opt/.wh..wh..opq"), file("opt/new", b"1"))
    put(store, BASE, archive(directory("opt"), file("opt/old", b"0")), whiteouts)
    assert lines("ls /opt") == ["new"]
    assert lines("ls /opt", driver="fuse-overlayfs") == ["new"]


def test_as_many_layers_as_the_kernel_takes(store: Store, tmp_path: Path) -> None:
    """Before Linux 6.13 they have to fit in a page of mount options."""
    put(store)
    made = []
    for number in range(499):
        (tmp_path / "layers" / f"{number}").mkdir(parents=True)
        (tmp_path / "layers" / f"{number}" / "which").write_text(f"{number}")
        made.append(str(tmp_path / "layers" / f"{number}"))
    assert lines("cat /which; ls /bin/busybox", layers=made) == ["498/bin/busybox"]
    assert lines("cat /which", layers=made, profile="untrusted") == ["498"]  # and a limit of 512 files
    with pytest.raises(ImageError, match="500"):
        run("true", layers=[*made, str(tmp_path)])
