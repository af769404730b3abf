"""The payload's process: environment, capabilities, filter."""

from __future__ import annotations

import pytest

from sandbox import seccomp
from sandbox.errors import ProfileError
from sandbox.plan.process import DEFAULT_PATH
from sandbox.profile.model import Environment, Limits, Process, Profile, User
from sandbox.wire import Kind
from tests.plan.making import call, numbers, plan_of, records


def test_environment_is_ours_the_kept_and_the_set() -> None:
    profile = Profile(env=Environment(keep=("LANG",), set={"A": "1", "HOME": "/elsewhere"}))
    plan = plan_of(profile, call(environ={"LANG": "C.UTF-8"}))
    assert dict(plan.environment) == {
        "A": "1",
        "HOME": "/elsewhere",
        "LANG": "C.UTF-8",
        "LOGNAME": "u",
        "PATH": DEFAULT_PATH,
        "SANDBOX": "1",
        "USER": "u",
        "container": "sandbox",
    }
    assert records(plan, Kind.ENVIRONMENT)[0][0] == b"A=1"


def test_who_the_payload_is_is_not_kept_from_the_caller() -> None:
    environ = {"HOME": "/x", "USER": "x", "LOGNAME": "x", "PATH": "/p"}
    plan = plan_of(Profile(user=User("root")), call(environ=environ))
    assert plan.environment["USER"] == plan.environment["LOGNAME"] == "root"
    assert plan.environment["HOME"] == "/home/u"
    assert plan.environment["PATH"] == "/p"


def test_but_is_where_it_is_named() -> None:
    profile = Profile(env=Environment(keep=("HOME", "U*", "S*")))
    environ = {"HOME": "/x", "USER": "x", "SANDBOX": "x"}
    plan = plan_of(profile, call(environ=environ))
    assert [plan.environment[name] for name in ("HOME", "USER", "SANDBOX")] == ["/x", "u", "1"]


def test_no_capabilities_by_default() -> None:
    assert numbers(records(plan_of(), Kind.CAPABILITIES)[0]) == [0]
    assert numbers(records(plan_of(Profile(user=User("root"))), Kind.CAPABILITIES)[0]) == [0]


@pytest.mark.parametrize("names", [("CAP_NET_BIND_SERVICE", "CHOWN"), ("net_bind_service", "cap_chown")])
def test_named_capabilities(names: tuple[str, ...]) -> None:
    plan = plan_of(Profile(process=Process(capabilities=names)))
    assert numbers(records(plan, Kind.CAPABILITIES)[0]) == [1 << 10 | 1 << 0]


def test_unknown_capability() -> None:
    with pytest.raises(ProfileError, match="no capability CAP_FLY"):
        plan_of(Profile(process=Process(capabilities=("CAP_FLY",))))


@pytest.mark.parametrize(("core", "held"), [(0, True), (1, True), (None, False), (1 << 20, False)])
def test_the_core_limit_is_held_where_it_forbids(core: int | None, held: bool) -> None:
    plan = plan_of(Profile(limits=Limits(core=core)))
    assert records(plan, Kind.SECCOMP) == [(seccomp.program("default", hold_core=held),)]


@pytest.mark.parametrize("mode", ["default", "strict"])
def test_filter_is_the_one_of_its_mode(mode: str) -> None:
    plan = plan_of(Profile(process=Process(seccomp=mode)))  # type: ignore[arg-type]
    program = seccomp.program(mode, hold_core=False, machine="x86_64")  # type: ignore[arg-type]
    assert records(plan, Kind.SECCOMP) == [(program,)]
    assert records(plan, Kind.KEYRING) == []


def test_memfd_is_denied_under_a_memory_limit() -> None:
    plan = plan_of(Profile(limits=Limits(memory=1 << 26)))
    expected = seccomp.program("default", deny=("memfd_create", "memfd_secret"), hold_core=False)
    assert records(plan, Kind.SECCOMP) == [(expected,)]


def test_without_a_filter_there_is_a_keyring() -> None:
    plan = plan_of(Profile(process=Process(seccomp="off")))
    assert records(plan, Kind.SECCOMP) == []
    assert len(records(plan, Kind.KEYRING)) == 1


def test_nested() -> None:
    assert numbers(records(plan_of(), Kind.USERNS_MAX)[0]) == [0]
    plan = plan_of(Profile(process=Process(nested=True)))
    assert records(plan, Kind.USERNS_MAX) == []
    assert records(plan, Kind.SECCOMP) == [(seccomp.program("default", nested=True, hold_core=False),)]


def test_the_rest() -> None:
    plan = plan_of(Profile(process=Process(umask=0o27, nice=5, hostname="box", tty="always")))
    assert numbers(records(plan, Kind.UMASK)[0]) == [0o27]
    assert numbers(records(plan, Kind.NICE)[0]) == [5]
    assert numbers(records(plan, Kind.TTY)[0]) == [2]
    assert records(plan, Kind.HOSTNAME) == [(b"box",)]
    assert records(plan_of(), Kind.HOSTNAME) == [(b"sandbox",)]
    assert records(plan_of(), Kind.UMASK) == [] and records(plan_of(), Kind.NICE) == []
