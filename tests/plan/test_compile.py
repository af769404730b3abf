"""compile: the same arguments give the same plan, and each key of a profile has its effect in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.errors import HostError, NotAvailableError, ProfileError
from sandbox.host import Check
from sandbox.plan import operations as ops
from sandbox.plan.plan import CLONE, Plan
from sandbox.profile.later import LATER
from sandbox.profile.model import Net, Origin, Process, Profile, Root, User
from sandbox.wire import Kind, Mount
from tests.plan.making import CALL, HOST, call, guard, numbers, place, plan_of, records


def by_dst(plan: Plan) -> dict[str, ops.Operation]:
    return {each.dst: each for each in plan.operations}


def test_is_deterministic() -> None:
    invocation = call([place("/home/u/project", "rw"), place("/tmp", "tmpfs")])
    one, other = plan_of(invocation=invocation), plan_of(invocation=invocation)
    assert one == other
    assert one.encode() == other.encode()


def test_every_description_and_origin_reaches_the_helper() -> None:
    plan = plan_of(invocation=call([place("/data", "ro", "/srv/data", line=7)]))
    assert any(each.describe() == "bind /srv/data read-only on /data" for each in plan.operations)
    assert by_dst(plan)["/data"].encode().origin == "p.toml:7"


@pytest.mark.parametrize(
    "profile",
    [
        Profile(),
        Profile(root=Root("empty")),
        Profile(root=Root(writable="memory", size=1 << 20)),
        Profile(root=Root("dir:/srv/root")),
        Profile(root=Root("dir:/srv/root", writable="disk")),
    ],
    ids=lambda each: f"{each.root.source}-{each.root.writable}",
)
def test_shape_of_the_root(profile: Profile) -> None:
    """One root first, no destination made twice, every parent before what is in it."""
    directory = "/srv/root" if profile.root.source.startswith("dir:") else ""
    entries = CALL.entries if profile.root.source == "host" else {}
    places = [place("/home/u/project", "rw"), place("/home/u/project/data", "ro"), place("/scratch", "tmpfs")]
    plan = plan_of(profile, call(places, entries=entries, root=directory))
    made = [each.dst for each in plan.operations if not isinstance(each, ops.ReadOnly)]
    assert made[0] == "/"
    assert len(made) == len(set(made))
    for number, dst in enumerate(made):
        for later in made[number + 1 :]:
            assert not dst.startswith(later.rstrip("/") + "/"), f"{dst} is made before {later}"
    required = {"/dev", "/dev/null", "/dev/pts", "/dev/shm", "/proc", "/sys", "/tmp", "/run", "/etc/passwd"}
    assert required <= set(made)


def test_host_root_shows_trees_read_only_and_keeps_links() -> None:
    found = by_dst(plan_of())
    for path in ("/usr", "/opt", "/etc/alternatives", "/etc/ld.so.cache"):
        tree = found[path]
        assert isinstance(tree, ops.Bind)
        assert tree.flags & Mount.READONLY and tree.flags & Mount.NOSUID and tree.flags & Mount.RECURSIVE
    link = found["/bin"]
    assert isinstance(link, ops.Symlink) and link.target == "usr/bin"
    assert "/var" not in found and "/home" not in found and "/root" not in found


def test_everything_but_devices_is_nosuid_and_nodev() -> None:
    places = [place("/a", "ro"), place("/b", "rw"), place("/c", "overlay"), place("/d", "tmpfs")]
    for operation in plan_of(invocation=call(places)).operations:
        if not isinstance(operation, ops.Bind | ops.Tmpfs | ops.Overlay | ops.Proc | ops.Mqueue):
            continue
        assert operation.flags & Mount.NOSUID, operation
        device = operation.dst == "/dev" or (
            operation.dst.startswith("/dev/") and isinstance(operation, ops.Bind)
        )
        assert device or operation.flags & Mount.NODEV, operation


@pytest.mark.parametrize(("writable", "expected"), [("no", True), ("memory", False), ("disk", False)])
def test_root_becomes_read_only_last(writable: str, expected: bool) -> None:
    plan = plan_of(Profile(root=Root(writable=writable)))  # type: ignore[arg-type]
    last = [each.dst for each in plan.operations if isinstance(each, ops.ReadOnly)]
    assert last == (["/dev", "/"] if expected else ["/dev"])
    assert [each.dst for each in plan.operations][-len(last) :] == last


def test_dir_root_is_an_overlay_in_memory_unless_it_is_kept_on_disk() -> None:
    for writable, size, upper in (("no", 0, ""), ("memory", 1 << 20, ""), ("disk", 0, "root")):
        profile = Profile(root=Root("dir:/srv/r", writable=writable, size=size or None))  # type: ignore[arg-type]
        plan = plan_of(profile, call(root="/srv/r", entries={}))
        root = plan.operations[0]
        assert isinstance(root, ops.Overlay)
        assert (root.lowers, root.upper, root.size) == (("/srv/r",), upper, size)
        assert plan.needs_scratch == (upper != "")


def test_dev_and_proc_are_never_reached_through_links() -> None:
    for operation in plan_of(Profile(root=Root("dir:/srv/r")), call(root="/srv/r", entries={})).operations:
        if isinstance(operation, ops.Symlink | ops.Directory | ops.File | ops.ReadOnly):
            continue
        if operation.dst in ("/dev", "/proc") or operation.dst.startswith(("/dev/", "/proc/")):
            assert operation.flags & Mount.STRICT, operation  # type: ignore[attr-defined]


def test_proc_is_masked_and_its_settings_read_only() -> None:
    found = by_dst(plan_of())
    for name in ("kcore", "keys", "timer_list", "kallsyms"):
        assert isinstance(found[f"/proc/{name}"], ops.Mask)
    for name in ("sys", "bus", "irq", "sysrq-trigger"):
        pin = found[f"/proc/{name}"]
        assert isinstance(pin, ops.Pin) and pin.flags & Mount.READONLY


def test_generated_accounts_have_only_the_payload() -> None:
    text = by_dst(plan_of())["/etc/passwd"]
    assert isinstance(text, ops.File)
    names = [line.split(":")[0] for line in text.content.decode().splitlines()]
    assert names == ["root", "u", "nobody"]


def test_dir_root_keeps_its_own_accounts() -> None:
    texts = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv/app:/bin/sh\n",
        "group": "root:x:0:\n",
    }
    invocation = call(root="/srv/r", entries={}, texts=texts)
    plan = plan_of(Profile(root=Root("dir:/srv/r")), invocation)
    assert plan.environment["HOME"] == "/srv/app"
    assert plan.environment["USER"] == "app"
    found = by_dst(plan)
    passwd, group = found["/etc/passwd"], found["/etc/group"]
    assert isinstance(passwd, ops.File) and passwd.content.decode() == texts["passwd"]
    assert isinstance(group, ops.File) and group.content.decode() == "root:x:0:\ng:x:1000:\n"
    assert "/etc/nsswitch.conf" not in found
    assert isinstance(found["/srv/app"], ops.Tmpfs)
    kept = plan_of(Profile(root=Root("dir:/srv/r", writable="memory")), invocation)
    assert isinstance(by_dst(kept)["/srv/app"], ops.Directory)


@pytest.mark.parametrize("writable", ["no", "memory", "disk"])
def test_directories_of_a_root_that_is_not_ours_are_opened(writable: str) -> None:
    """What must be made in /etc and /home can't be where both belong to root; /srv is the payload's own."""
    directories = {"/etc": (0, 0), "/home": (0, 0), "/tmp": (0, 0), "/srv": (1000, 1000)}
    invocation = call([place("/srv/x", "ro", "/data")], root="/r", entries={}, directories=directories)
    plan = plan_of(Profile(root=Root("dir:/r", writable=writable)), invocation)  # type: ignore[arg-type]
    found = {each.dst: each for each in plan.operations if isinstance(each, ops.Overlay)}
    assert {dst: each.lowers for dst, each in found.items()} == {
        "/": ("/r",),
        "/etc": ("/r/etc",),
        "/home": ("/r/home",),
    }
    uppers = [each.upper for each in found.values()]
    assert uppers == (["root", "root-etc", "root-home"] if writable == "disk" else ["", "", ""])
    closed = [each.dst for each in plan.operations if isinstance(each, ops.ReadOnly)]
    assert closed == (["/dev", "/home", "/etc", "/"] if writable == "no" else ["/dev"])
    ours = dict.fromkeys(directories, (1000, 1000))
    plan = plan_of(Profile(root=Root("dir:/r")), replace(invocation, directories=ours))
    assert [each.dst for each in plan.operations if isinstance(each, ops.Overlay)] == ["/"]


@pytest.mark.parametrize("home", ["/", "/usr", "/usr/games", "/proc/1", "/etc", "/tmp", "/var"])
def test_a_home_that_is_something_else_inside_moves(home: str) -> None:
    plan = plan_of(invocation=replace(CALL, home=home))
    assert plan.environment["HOME"] == "/home/u"
    assert isinstance(by_dst(plan)["/home/u"], ops.Tmpfs)


def test_home_is_an_empty_private_tmpfs_unless_it_is_mounted() -> None:
    home = by_dst(plan_of())["/home/u"]
    assert isinstance(home, ops.Tmpfs) and home.mode == 0o700 and home.flags & Mount.OWNED
    assert isinstance(by_dst(plan_of(invocation=call([place("/home/u", "overlay")])))["/home/u"], ops.Overlay)
    assert "/home/u" not in by_dst(plan_of(invocation=call([place("/home", "ro")])))


def test_a_home_below_an_empty_mount_is_made_before_what_is_in_it() -> None:
    plan = plan_of(invocation=call([place("/home", "tmpfs"), place("/home/u/project", "rw")]))
    made = [each.dst for each in plan.operations if each.dst.startswith("/home")]
    assert made == ["/home", "/home/u", "/home/u/project"]


def test_a_hidden_home_is_no_working_directory() -> None:
    plan = plan_of(invocation=call([place("/home/u", "hide")]))
    assert plan.workdir == "/"


def test_a_mount_takes_the_place_of_ours() -> None:
    plan = plan_of(
        invocation=call([place("/tmp", "rw", "/srv/t"), place("/opt", "hide"), place("/dev/shm", "tmpfs")])
    )
    found = by_dst(plan)
    assert isinstance(found["/tmp"], ops.Bind) and isinstance(found["/opt"], ops.Mask)
    assert sum(each.dst == "/dev/shm" for each in plan.operations) == 1
    whole = plan_of(invocation=call([place("/etc", "ro")]))
    assert [each.dst for each in whole.operations if each.dst.startswith("/etc")] == ["/etc"]


def test_what_is_hidden_of_a_root_never_covers_what_is_ours() -> None:
    hidden = tuple(guard(f"/r/{name}") for name in ("tmp", "dev/null", "etc/passwd", "proc", "home/u/.ssh"))
    plan = plan_of(Profile(root=Root("dir:/r")), call(root="/r", hidden=hidden, entries={}))
    kinds = {each.dst: type(each) for each in plan.operations}
    assert [kinds[name] for name in ("/tmp", "/dev/null", "/etc/passwd", "/proc")] == [
        ops.Tmpfs,
        ops.Bind,
        ops.File,
        ops.Proc,
    ]


def test_namespaces() -> None:
    every = sum(CLONE.values())
    assert plan_of().namespaces == every
    assert plan_of(Profile(net=Net("host"))).namespaces == every - CLONE["net"]


def test_loopback_only_in_a_network_of_its_own() -> None:
    assert len(records(plan_of(), Kind.LOOPBACK)) == 1
    assert records(plan_of(Profile(net=Net("host"))), Kind.LOOPBACK) == []


def test_resolv_conf_is_empty_without_a_network_and_copied_with_the_hosts() -> None:
    texts = {"/etc/resolv.conf": "nameserver 192.0.2.1\n", "/etc/hosts": "192.0.2.2 intranet\n"}
    none = by_dst(plan_of(invocation=call(texts=texts)))
    host = by_dst(plan_of(Profile(net=Net("host")), call(texts=texts)))
    assert isinstance(none["/etc/resolv.conf"], ops.File) and none["/etc/resolv.conf"].content == b""
    assert isinstance(host["/etc/resolv.conf"], ops.File)
    assert host["/etc/resolv.conf"].content == b"nameserver 192.0.2.1\n"
    assert isinstance(none["/etc/hosts"], ops.File) and b"intranet" not in none["/etc/hosts"].content
    assert isinstance(host["/etc/hosts"], ops.File) and b"intranet" in host["/etc/hosts"].content


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], "/home/u"),
        ([place("/home", "tmpfs")], "/home/u"),
        ([place("/home/u/project", "rw")], "/home/u/project"),
        ([place("/work", "ro", "/home/u/project")], "/work"),
        ([place("/work", "ro", "/home/u")], "/work/project"),
        ([place("/work", "ro", "/home/u/project"), place("/home/u/project", "rw")], "/home/u/project"),
        ([place("/home/u", "ro"), place("/home/u/project", "hide")], "/home/u"),
        ([place("/home/u", "ro"), place("/home/u/project", "tmpfs")], "/home/u"),
    ],
)
def test_workdir_is_where_the_callers_directory_is_seen(places: list, expected: str) -> None:  # type: ignore[type-arg]
    assert plan_of(invocation=call(places)).workdir == expected


def test_workdir_of_a_profile() -> None:
    def workdir(written: str) -> str:
        invocation = call([place("/work", "ro", "/home/u/project")])
        return plan_of(Profile(process=Process(workdir=written)), invocation).workdir

    assert workdir("/srv") == "/srv"
    assert workdir("~/x") == "/home/u/x"
    assert workdir("src") == "/work/src"
    assert workdir(".") == "/work"


@pytest.mark.parametrize("root", [Root("image:debian"), Root("podman"), Root(layers=("a",))])
def test_a_root_that_is_none_is_refused(root: Root) -> None:
    with pytest.raises(ProfileError):
        plan_of(Profile(root=root))


@pytest.mark.parametrize("net", [Net("host", allow=()), Net("host", deny=("192.0.2.0/24",))])
def test_a_policy_that_nothing_would_hold_is_refused(net: Net) -> None:
    with pytest.raises(ProfileError, match="the network is the host's"):
        plan_of(Profile(net=net))


def test_workdir_in_the_hosts_trees() -> None:
    assert plan_of(invocation=call(cwd="/usr/share/doc")).workdir == "/usr/share/doc"
    assert plan_of(Profile(root=Root("empty")), call(cwd="/usr/share/doc", entries={})).workdir == "/home/u"


def test_what_is_not_built_yet_is_refused() -> None:
    profile = Profile(process=Process(init=False))
    profile = replace(profile, origins={key: Origin("p.toml", 3) for key in LATER})
    with pytest.raises(NotAvailableError, match=r"^p\.toml:3: \w+\.\w+.* is not available yet") as caught:
        plan_of(profile)
    assert caught.value.mend


@pytest.mark.parametrize("net", [Net("lab"), Net("host", rate="1mbit"), Net("none", rate="1mbit")])
def test_networks_that_are_not_there_and_rates_of_none_are_refused(net: Net) -> None:
    """Of profiles that nobody loaded."""
    with pytest.raises(ProfileError):
        plan_of(Profile(net=net))


@pytest.mark.parametrize(
    ("row", "profile", "places"),
    [
        ("overlay", Profile(root=Root("dir:/srv/r")), []),
        ("overlay", Profile(), [place("/x", "overlay")]),
        ("proc", Profile(), []),
    ],
)
def test_what_the_machine_lacks_names_the_row(row: str, profile: Profile, places: list) -> None:  # type: ignore[type-arg]
    check = Check(row, False, True, "tried, got EPERM", "nothing works", "fix --it")
    host = replace(HOST, checks={row: check}, **{row: False})
    with pytest.raises(HostError, match="tried, got EPERM") as caught:
        plan_of(profile, call(places), host)
    assert (caught.value.row, caught.value.mend) == (row, "fix --it")
    assert plan_of(Profile(root=Root("host")), CALL, replace(HOST, overlay=False)).operations


def test_notes_are_honest() -> None:
    def notes(profile: Profile | None = None, *places: object, **more: object) -> str:
        return "\n".join(plan_of(profile, call(places, **more)).notes)  # type: ignore[arg-type]

    assert "git hooks" in notes(None, place("/home/u/project", "rw"))
    assert "abstract unix sockets" in notes(Profile(net=Net("host")))
    assert "seccomp is off" in notes(Profile(process=Process(seccomp="off")))
    assert "stay read-only" in notes(Profile(root=Root(writable="memory")))
    assert "a socket" in notes(None, place("/s", "ro", "/run/s", directory=False, socket=True))
    assert "hidden otherwise" in notes(None, place("/r", "ro", "/run/user/1"), hidden=(guard("/run"),))
    own = notes(None, place("/co", "rw"), guards=(guard("/co", "where sandbox is installed"),))
    assert "/co is read-only" in own and "git hooks" not in own
    assert notes() == ""


def test_a_root_that_is_hidden_otherwise_is_told() -> None:
    plan = plan_of(Profile(root=Root("dir:/run/x")), call(root="/run/x", hidden=(guard("/run"),), entries={}))
    assert "/ is a part of the host that is hidden otherwise: /run/x" in plan.notes


def test_describe_has_a_line_for_everything() -> None:
    plan = plan_of(invocation=call([place("/data", "ro", "/srv/data", line=7)]))
    lines = plan.describe()
    assert "bind /srv/data read-only on /data  [p.toml:7]" in lines
    assert lines[0] == "new namespaces: user mnt pid ipc uts cgroup net"
    assert "user 1000 inside is 1000 outside" in lines
    assert len(lines) >= len(plan.operations) + len(plan.attributes)


def test_ids_of_the_plan_are_encoded() -> None:
    plan = plan_of(Profile(user=User("root")))
    assert [numbers(fields) for fields in records(plan, Kind.IDMAP)] == [[0, 0, 1000, 1], [1, 0, 1000, 1]]
    assert numbers(records(plan, Kind.IDENTITY)[0]) == [0, 0]
    assert plan.environment["USER"] == "root"
    assert records(plan, Kind.IDTOOL) == []


def test_a_range_names_the_tools() -> None:
    from sandbox.host import Range

    check = Check("idrange", True, False, "ok", "")
    host = replace(
        HOST,
        newuidmap="/usr/bin/newuidmap",
        newgidmap="/usr/bin/newgidmap",
        subuid=(Range(100000, 65536),),
        subgid=(Range(100000, 65536),),
        checks={"idrange": check},
    )
    plan = plan_of(Profile(user=User("root", ids="range")), CALL, host)
    assert records(plan, Kind.IDTOOL) == [(b"/usr/bin/newuidmap", b"/usr/bin/newgidmap")]
    mask = numbers(records(plan, Kind.CAPABILITIES)[0])[0]
    assert mask & 1 << 0 and not mask & 1 << 13 and not mask & 1 << 27 and not mask & 1 << 21
