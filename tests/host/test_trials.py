"""Trials with helpers that are scripts: how outcomes become rows, and failures causes. What the
real helper says is in test_real.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sandbox import host, paths, wire
from sandbox.host import doctor, trials
from sandbox.host.facts import Facts, gather
from sandbox.host.trials import culprit

#: Decodes the plan; says {operation: ...} for those of its records that `fails` names.
SCRIPT = """\
#!{python}
import json, os, socket, sys
sys.path.insert(0, {path!r})
if sys.argv[1] == "version":
    print("sandbox-helper, plan version 1"); sys.exit()
from sandbox import wire
records = list(wire.decode(open(int(sys.argv[2]), "rb").read()))
kinds = dict((kind, fields) for kind, fields in records)
control = socket.socket(fileno=int.from_bytes(kinds[wire.Kind.CONTROL][2], "little"))
fails = {fails!r}
with open({log!r}, "a") as log:
    print(",".join(wire.Kind(kind).name for kind, _ in records), file=log)
for name, (errno_name, message) in fails.items():
    if wire.Kind[name] in kinds:
        event = dict(event="error", operation="", origin="", errno=1, errno_name=errno_name, message=message)
        control.send(json.dumps(event).encode())
        sys.exit(125)
if wire.Kind.SECCOMP in kinds:
    sys.exit({seccomp})
if len(kinds[wire.Kind.ARGV]) > 3 and kinds[wire.Kind.ARGV][2].endswith(b"hidden"):
    sys.exit({hidden})
"""


class Fake:
    """A helper whose set-up fails at the kinds of records in `fails`."""

    def __init__(self, directory: Path) -> None:
        self.path, self.log = directory / "fake helper", directory / "log"
        self.make({})

    def make(self, fails: dict[str, tuple[str, str]], seccomp: int = 125, hidden: int = 127) -> None:
        root = str(Path(__file__).resolve().parents[2])
        self.path.write_text(
            SCRIPT.format(
                python=sys.executable,
                path=root,
                fails=fails,
                log=str(self.log),
                seccomp=seccomp,
                hidden=hidden,
            )
        )
        self.path.chmod(0o755)
        self.log.write_text("")

    @property
    def started(self) -> int:
        return len(self.log.read_text().splitlines())


@pytest.fixture
def fake(tmp_path: Path, tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(tmp_path)
    monkeypatch.setattr(paths, "helper", lambda: str(made.path))
    return made


@pytest.fixture
def found(fake: Fake) -> Facts:
    return gather(helper=str(fake.path))


def names(found: Facts, fake: Fake, *wanted: str) -> dict[str, bool]:
    return {name: row.ok for name, row in trials.rows(found, str(fake.path), wanted).items()}


DENIED = ("EPERM", "cannot make namespaces: user namespaces are not allowed here")


def test_where_everything_works(found: Facts, fake: Fake) -> None:
    rows = trials.rows(found, str(fake.path), trials.NAMES)
    for name, row in rows.items():
        if name != "idrange":  # this user may have none
            assert row.ok and row.mend == "" and row.detail and row.consequence, row
    assert {name for name, row in rows.items() if row.required} == {"userns", "proc", "seccomp", "net"}


def test_where_nothing_works_each_row_leads_to_the_first(found: Facts, fake: Fake) -> None:
    fake.make({"NAMESPACES": DENIED})
    rows = trials.rows(found, str(fake.path), trials.NAMES)
    assert not any(row.ok for row in rows.values())
    assert "not allowed here" in rows["userns"].detail
    assert rows["overlay"].mend == "mend userns first"


def test_a_covered_proc_is_no_fault_of_namespaces(found: Facts, fake: Fake) -> None:
    fake.make({"ARGV": ("EPERM", "cannot open a fresh proc: Operation not permitted")})
    rows = trials.rows(found, str(fake.path), ["userns", "proc", "net"])
    assert rows["userns"].ok and not rows["proc"].ok and not rows["net"].ok
    assert rows["net"].mend == "mend proc first"


def test_a_filter_that_is_not_obeyed(found: Facts, fake: Fake) -> None:
    fake.make({}, seccomp=0)
    assert names(found, fake, "seccomp", "userns") == {"seccomp": False, "userns": True}


def test_an_opaque_directory_that_does_not_hide(found: Facts, fake: Fake) -> None:
    fake.make({}, hidden=0)
    row = trials.rows(found, str(fake.path), ["overlay"])["overlay"]
    assert not row.ok and "deleted files show" in row.detail


def test_no_place_to_try_overlays_in(
    found: Facts, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere(prefix: str, dir: str) -> str:
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(trials.tempfile, "mkdtemp", nowhere)
    row = trials.rows(found, str(fake.path), ["overlay"])["overlay"]
    assert not row.ok and "no directory to try in" in row.detail


def test_a_home_that_can_be_no_lower_directory(
    found: Facts, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_home: Path
) -> None:
    """As on NFS: overlays work here, and why not there is told."""
    real = trials._overlay_of

    def refuse(facts: Facts, helper: str, top: str, bottom: str, *, marked: bool) -> trials.Outcome | str:
        if top.startswith(str(tmp_home)):
            return trials.Outcome(125, "EOPNOTSUPP", "", "cannot mount an overlay on /o: not supported")
        return real(facts, helper, top, bottom, marked=marked)

    monkeypatch.setattr(trials, "_overlay_of", refuse)
    row = trials.rows(found, str(fake.path), ["overlay"])["overlay"]
    assert row.ok and f"not in {tmp_home}" in row.detail and "not supported" in row.detail


def test_one_failing_row_alone(found: Facts, fake: Fake) -> None:
    fake.make({"OVERLAY": ("ENODEV", "cannot mount an overlay on /o: No such device")})
    assert names(found, fake, "overlay", "net", "proc") == {"overlay": False, "net": True, "proc": True}


def test_a_row_that_works_costs_no_other_trial(found: Facts, fake: Fake) -> None:
    assert names(found, fake, "proc") == {"proc": True}
    assert fake.started == 1


def test_a_helper_that_does_not_start(found: Facts, fake: Fake) -> None:
    fake.path.write_bytes(b"\x7fELF not really")
    row = trials.rows(found, str(fake.path), ["userns"])["userns"]
    assert not row.ok and "cannot start" in row.detail
    fake.path.unlink()
    assert not trials.rows(found, str(fake.path), ["userns"])["userns"].ok


def test_a_helper_that_hangs_is_ended(found: Facts, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.path.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    monkeypatch.setattr(trials, "_TIMEOUT", 0.2)
    outcome = trials.run(str(fake.path), [])
    assert outcome.status != 0 and outcome.errno_name == "ETIMEDOUT"


def test_a_helper_that_dies_silently_is_told_by_its_status(found: Facts, fake: Fake) -> None:
    fake.path.write_text(f"#!{sys.executable}\nimport os\nos.kill(os.getpid(), 9)\n")
    row = trials.rows(found, str(fake.path), ["userns"])["userns"]
    assert not row.ok and "-9" in row.detail


def test_plans_are_sound(found: Facts, fake: Fake) -> None:
    """Every plan has what the helper insists on; nothing of it writes to the host."""
    names(found, fake, *trials.NAMES)
    for line in fake.log.read_text().splitlines():
        kinds = [wire.Kind[name] for name in line.split(",")]
        assert kinds.count(wire.Kind.IDMAP) in (2, 4)
        assert {wire.Kind.NAMESPACES, wire.Kind.IDENTITY, wire.Kind.ARGV, wire.Kind.STDIO} <= set(kinds)
        assert min(i for i, kind in enumerate(kinds) if kind >= wire.Kind.TMPFS) == kinds.index(
            wire.Kind.TMPFS
        )


def test_nothing_is_left_behind(found: Facts, fake: Fake, tmp_home: Path) -> None:
    names(found, fake, *trials.NAMES)
    assert not [path for path in tmp_home.rglob("*") if path.is_file() or "trial" in path.name]


# --- probe --------------------------------------------------------------------------------------


def test_a_probe_starts_nothing(fake: Fake) -> None:
    probed = host.probe()
    assert fake.started == 0
    assert probed.overlay and probed.proc
    assert set(probed.checks) == {"kernel", "idrange"}


def test_an_answer_that_is_asked_for_is_tried_once(fake: Fake) -> None:
    first = host.probe(need=["overlay"])
    started = fake.started
    assert first.checks["overlay"].ok and started > 0
    assert host.probe(need=["overlay"]).checks["overlay"] == first.checks["overlay"]
    assert fake.started == started
    assert host.probe(need=["overlay", "proc"]).checks["proc"].ok
    assert fake.started == started + 1
    host.probe(need=["overlay"], refresh=True)
    assert fake.started > started + 1


def test_a_bad_answer_is_asked_for_again(fake: Fake) -> None:
    fake.make({"OVERLAY": ("EPERM", "cannot mount an overlay on /o: Operation not permitted")})
    assert not host.probe(need=["overlay"]).overlay
    fake.make({})
    assert host.probe(need=["overlay"]).overlay


def test_another_helper_is_tried_anew(fake: Fake) -> None:
    host.probe(need=["proc"])
    fake.make({"PROC": ("EPERM", "cannot mount a fresh proc on /proc: x")})
    assert not host.probe(need=["proc"]).proc


def test_refresh_tries_all(fake: Fake) -> None:
    assert set(trials.NAMES) <= set(host.probe(refresh=True).checks)


def test_an_unknown_need_is_a_mistake_of_ours(fake: Fake) -> None:
    with pytest.raises(KeyError):
        host.probe(need=["teleport"])


def test_a_home_that_cannot_be_written_is_no_error(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert host.probe(need=["overlay"]).overlay
    assert host.probe(need=["overlay"]).overlay


# --- doctor and explain -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "errno_name", "message", "row"),
    [
        ("", "EPERM", "cannot make namespaces: user namespaces are not allowed here", "userns"),
        ("", "ENOSPC", "cannot make namespaces: the limit ... is reached", "userns"),
        ("map user ids", "EPERM", "cannot map user ids: Operation not permitted", "userns"),
        ("", "EACCES", "cannot make the mounts private: Permission denied", "userns"),
        ("bring the loopback device up", "EPERM", "cannot bring lo up: Operation not permitted", "userns"),
        ("bring the loopback device up", "ENODEV", "cannot bring lo up: No such device", "net"),
        ("map ids with newuidmap", "EPERM", "cannot map ids with /usr/bin/newgidmap: gid range", "idrange"),
        ("mount a fresh proc on /proc", "EPERM", "cannot mount a fresh proc on /proc: no", "proc"),
        ("", "EPERM", "sandbox: cannot open a fresh proc: Operation not permitted", "proc"),
        ("load the strict seccomp filter", "EINVAL", "cannot load the strict seccomp filter: x", "seccomp"),
        ("mount an overlay of /a", "EINVAL", "cannot mount an overlay of /a: x", "overlay"),
        ("bind /a on /b", "ENOENT", "cannot bind /a on /b: No such file or directory", None),
        ("bind /overlay on /proc", "EPERM", "cannot bind /overlay on /proc: seccomp namespaces", None),
        ("mount a tmpfs on /x", "ENOMEM", "cannot mount a tmpfs on /x: Cannot allocate memory", None),
        ("", "", "", None),
    ],
)
def test_whose_fault_a_failure_is(operation: str, errno_name: str, message: str, row: str | None) -> None:
    assert culprit(operation, errno_name, message) == row


def test_a_failure_is_explained_by_the_row_that_fails(fake: Fake) -> None:
    message = ("ENODEV", "cannot mount an overlay on /o: No such device")
    fake.make({"OVERLAY": message})
    row = host.explain("mount an overlay on /home", *message)
    assert row and row.name == "overlay" and "modprobe overlay" in row.mend


def test_a_row_that_is_fine_explains_nothing(fake: Fake) -> None:
    assert host.explain("mount an overlay on /home", "EINVAL", "cannot mount an overlay on /home: x") is None
    assert host.explain("bind /a on /b", "ENOENT", "cannot bind /a on /b: x") is None


def test_doctor_has_every_row_once(fake: Fake) -> None:
    rows = host.checks()
    assert [row.name for row in rows] == [
        *("kernel", "helper", "userns", "userns-apparmor", "proc", "seccomp", "net"),
        *(
            "idrange",
            "overlay",
            "fuse",
            "tun",
            "pasta",
            "slirp4netns",
            "nft",
            "net-user",
            "user-manager",
            "cgroup",
        ),
    ]
    for row in rows:
        assert row.detail and row.consequence and (row.ok or row.mend), row
    assert {row.name for row in rows if row.required} == {
        *("kernel", "helper", "userns", "proc", "seccomp", "net")
    }


def test_doctor_fills_the_cache(fake: Fake) -> None:
    host.checks()
    started = fake.started
    assert host.probe(need=["overlay", "proc"]).checks["overlay"].ok
    assert fake.started == started


def test_doctor_as_json(fake: Fake) -> None:
    rows = host.checks()
    document = json.loads(host.to_json(rows))
    assert document["ok"] is all(row.ok for row in rows if row.required)
    assert set(document["checks"][0]) == {"name", "ok", "required", "detail", "consequence", "mend"}
    fake.make({"NAMESPACES": DENIED})
    assert json.loads(host.to_json(host.checks()))["ok"] is False


def test_the_helpers_row(fake: Fake, tmp_path: Path) -> None:
    assert doctor.helper_row(str(fake.path)).ok
    missing = doctor.helper_row(str(tmp_path / "none"))
    assert not missing.ok and missing.required and "does not exist" in missing.detail and missing.mend
    fake.path.write_text("#!/bin/sh\necho sandbox-helper, plan version 2\n")
    assert not doctor.helper_row(str(fake.path)).ok
    fake.path.chmod(0o644)
    assert "does not run" in doctor.helper_row(str(fake.path)).detail


def test_apparmors_row_tells_a_machine_that_allows_us_from_one_that_does_not(found: Facts) -> None:
    restricted = found._replace(
        sysctls={**found.sysctls, "kernel/apparmor_restrict_unprivileged_userns": "1"}
    )
    assert doctor._apparmor(restricted, "/h", works=True).ok
    row = doctor._apparmor(restricted, "/h", works=False)
    assert not row.ok and 'profile sandbox-helper "/h"' in row.mend
    assert doctor._apparmor(found, "/h", works=False).ok
