"""Id plans: what the payload is inside and outside, and that every map is one the kernel takes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import HostError, ProfileError
from sandbox.host.model import Host, IdMap, Range
from sandbox.host.spare import BLOCK, SETGID, SETUID
from sandbox.ids import IdPlan, plan_ids, server
from sandbox.profile.model import User

FULL = (IdMap(0, 0, 2**32 - 1),)
RIGHTS = SETUID | SETGID

PLAIN = Host(
    kernel=(6, 1),
    machine="x86_64",
    uid=1000,
    gid=1001,
    user="me",
    newuidmap="/usr/bin/newuidmap",
    newgidmap="/usr/bin/newgidmap",
    subuid=(Range(100000, 65536),),
    subgid=(Range(200000, 65536),),
)
ROOT = replace(PLAIN, uid=0, gid=0, user="root", subuid=(), subgid=(), capabilities=RIGHTS)


def covers(maps: tuple[IdMap, ...], outside: int) -> bool:
    return any(m.outside <= outside < m.outside + m.count for m in maps)


def outside_of(maps: tuple[IdMap, ...], inside: int) -> int | None:
    for m in maps:
        if m.inside <= inside < m.inside + m.count:
            return m.outside + inside - m.inside
    return None


@pytest.mark.parametrize(
    ("text", "uid", "gid"),
    [("keep", 1000, 1001), ("root", 0, 0), ("7:8", 7, 8), ("0:0", 0, 0), ("4294967294:1", 4294967294, 1)],
)
def test_single_maps_the_payload_to_the_caller(text: str, uid: int, gid: int) -> None:
    plan = plan_ids(User(map=text), PLAIN)
    assert plan == IdPlan(
        uids=(IdMap(uid, 1000, 1),),
        gids=(IdMap(gid, 1001, 1),),
        uid=uid,
        gid=gid,
        tool=False,
        single=True,
        host_uid=1000,
        host_gid=1001,
    )


def test_single_needs_nothing_installed() -> None:
    bare = replace(PLAIN, newuidmap=None, newgidmap=None, subuid=(), subgid=())
    assert plan_ids(User(ids="single"), bare).single
    assert plan_ids(User(), bare).single


def test_range_gives_the_payload_its_own_id_and_the_others_in_order() -> None:
    plan = plan_ids(User(ids="range"), PLAIN)
    assert plan.uids == (
        IdMap(0, 100000, 1000),
        IdMap(1000, 1000, 1),
        IdMap(1001, 101000, 64535),
    )
    assert plan.gids == (
        IdMap(0, 200000, 1001),
        IdMap(1001, 1001, 1),
        IdMap(1002, 201001, 64534),
    )
    assert plan.tool and not plan.single


def test_range_as_root_inside() -> None:
    plan = plan_ids(User(map="root", ids="range"), PLAIN)
    assert plan.uids == (IdMap(0, 1000, 1), IdMap(1, 100000, 65535))


def test_range_of_an_id_above_it() -> None:
    plan = plan_ids(User(map="200000:200000", ids="range"), PLAIN)
    assert plan.uids == (IdMap(0, 100000, 65536), IdMap(200000, 1000, 1))


def test_small_ranges_are_used_up_in_the_order_of_the_file() -> None:
    host = replace(PLAIN, subuid=(Range(500, 2), Range(300, 3)))
    plan = plan_ids(User(map="1:0", ids="range"), host)
    assert plan.uids == (IdMap(0, 500, 1), IdMap(1, 1000, 1), IdMap(2, 501, 1), IdMap(3, 300, 3))


def test_a_range_that_holds_the_callers_own_id_does_not_give_it_twice() -> None:
    plan = plan_ids(User(map="root", ids="range"), replace(PLAIN, subuid=(Range(999, 3),)))
    assert plan.uids == (IdMap(0, 1000, 1), IdMap(1, 999, 1), IdMap(2, 1001, 1))


def test_needs_range_makes_auto_a_range_and_contradicts_single() -> None:
    assert not plan_ids(User(), PLAIN, needs_range=True).single
    with pytest.raises(ProfileError, match="single"):
        plan_ids(User(ids="single"), PLAIN, needs_range=True)


@pytest.mark.parametrize(
    "lacking",
    [
        {"newuidmap": None},
        {"newgidmap": None},
        {"subuid": ()},
        {"subgid": ()},
        {"uid_map": (IdMap(1000, 1000, 1),)},
    ],
)
def test_range_without_its_means_names_the_row_and_a_mend(lacking: dict[str, object]) -> None:
    with pytest.raises(HostError) as caught:
        plan_ids(User(ids="range"), replace(PLAIN, **lacking))
    assert caught.value.row == "idrange"
    assert caught.value.mend


@pytest.mark.parametrize(
    "text",
    [
        *("", "1000", "1000abc:0", "-1:0", "0:-1", "1000:", ":1", "1:2:3", " 1:1", "1_0:1", "+1:1"),
        *("\u0663:1", "4294967295:0", "0:4294967295", "99999999999:0", "1e3:1", "nobody"),
    ],
)
def test_a_map_that_is_none(text: str) -> None:
    with pytest.raises(ProfileError):
        plan_ids(User(map=text), PLAIN)


# --- root ---------------------------------------------------------------------------------------

MODES: list[Literal["single", "range"]] = ["single", "range"]


@pytest.mark.parametrize("ids", MODES)
@pytest.mark.parametrize("text", ["keep", "root", "7:7"])
def test_the_payload_of_root_is_never_root(text: str, ids: Literal["single", "range"]) -> None:
    plan = plan_ids(User(map=text, ids=ids), ROOT)
    assert plan.host_uid == plan.host_gid == BLOCK.start
    assert not covers(plan.uids, 0) and not covers(plan.gids, 0)
    assert not plan.tool


def test_root_keeps_its_name_inside() -> None:
    plan = plan_ids(User(), ROOT)
    assert (plan.uid, plan.gid) == (0, 0)
    assert plan.uids == (IdMap(0, BLOCK.start, 1),)


def test_root_prefers_its_own_range() -> None:
    host = replace(ROOT, subuid=(Range(700000, 65536),), subgid=(Range(800000, 65536),))
    plan = plan_ids(User(ids="range"), host)
    assert plan.uids == (IdMap(0, 700000, 1), IdMap(1, 700001, 65535))
    assert plan.host_gid == 800000


def test_root_of_a_container_without_the_usual_ids_takes_the_last_ordinary_one() -> None:
    few = (IdMap(0, 1000, 1), IdMap(1, 100000, 65536))
    host = replace(ROOT, uid_map=few, gid_map=few, machine_root=None)
    assert plan_ids(User(), host).host_uid == 65533
    assert plan_ids(User(), replace(host, uid_map=(IdMap(0, 1000, 500),))).host_uid == 499
    with pytest.raises(HostError) as caught:
        plan_ids(User(ids="range"), host)
    assert "--add-subuids 10000-65533" in (caught.value.mend or "")


def test_root_of_the_machine_with_nothing_else_mapped_is_refused() -> None:
    host = replace(ROOT, uid_map=(IdMap(0, 0, 1),), gid_map=(IdMap(0, 0, 1),))
    with pytest.raises(HostError) as caught:
        plan_ids(User(), host)
    assert caught.value.row == "idrange"


def test_a_user_who_is_only_called_root_stays_one() -> None:
    host = replace(ROOT, uid_map=(IdMap(0, 1000, 1),), gid_map=(IdMap(0, 1000, 1),), machine_root=None)
    assert plan_ids(User(), host).uids == (IdMap(0, 0, 1),)


def test_root_without_the_capabilities_to_map_is_refused() -> None:
    for capabilities in (0, SETUID, SETGID):
        with pytest.raises(HostError):
            plan_ids(User(), replace(ROOT, capabilities=capabilities))


def test_the_machines_root_under_another_name_is_not_given_away_either() -> None:
    shifted = (IdMap(0, 1000, 1), IdMap(1, 0, 1), IdMap(2, 2000, 3))
    host = replace(ROOT, uid_map=shifted, gid_map=shifted, machine_root=1, subuid=(Range(1, 4),))
    plan = plan_ids(User(), replace(host, subgid=(Range(1, 4),)))
    assert plan.host_uid == plan.host_gid == 2
    caller = replace(PLAIN, uid=1, gid=1, machine_root=1)
    with pytest.raises(HostError):
        plan_ids(User(), caller)


# --- properties ---------------------------------------------------------------------------------

ids = st.integers(0, 2**32 - 2)
small = st.integers(0, 70000)
inside_ids = st.one_of(small, ids)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Range, ...]:
    """Ranges as the parser lets them through: not empty, without 0, not overlapping."""
    cuts = sorted(draw(st.lists(st.integers(1, 2**32 - 1), min_size=2, max_size=12, unique=True)))
    parts = [
        Range(first, min(end - first, draw(st.sampled_from([1, 3, 5000, 65536, 2**31]))))
        for first, end in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    return tuple(draw(st.permutations(parts)))


hosts = st.builds(
    lambda uid, gid, subuid, subgid: replace(
        PLAIN,
        uid=uid,
        gid=gid,
        subuid=subuid,
        subgid=subgid,
        capabilities=RIGHTS if uid == 0 else 0,
    ),
    inside_ids,
    inside_ids,
    ranges(),
    ranges(),
)
maps_of_users = st.one_of(
    st.sampled_from(["keep", "root"]), st.tuples(inside_ids, inside_ids).map(lambda p: f"{p[0]}:{p[1]}")
)


def check_map(maps: tuple[IdMap, ...], inside: int, outside: int, allowed: tuple[Range, ...]) -> None:
    assert list(maps) == sorted(maps)
    assert len(maps) <= 340
    for m in maps:
        assert m.count > 0
        assert m.inside >= 0 and m.inside + m.count <= 2**32 - 1
        assert m.outside >= 0 and m.outside + m.count <= 2**32 - 1
    for one, other in itertools.pairwise(maps):
        assert one.inside + one.count <= other.inside
    by_outside = sorted(maps, key=lambda m: m.outside)
    for one, other in itertools.pairwise(by_outside):
        assert one.outside + one.count <= other.outside
    assert outside_of(maps, inside) == outside
    for m in maps:
        mine = m == IdMap(inside, outside, 1)
        given_us = any(r.start <= m.outside and m.outside + m.count <= r.start + r.count for r in allowed)
        assert mine or given_us


@given(host=hosts, text=maps_of_users, mode=st.sampled_from(["single", "range", "auto"]), need=st.booleans())
def test_every_plan_is_one_the_kernel_takes(
    host: Host, text: str, mode: Literal["single", "range", "auto"], need: bool
) -> None:
    try:
        plan = plan_ids(User(map=text, ids=mode), host, needs_range=need)
    except (HostError, ProfileError) as error:
        assert str(error)
        return
    check_map(plan.uids, plan.uid, plan.host_uid, host.subuid or (BLOCK,))
    check_map(plan.gids, plan.gid, plan.host_gid, host.subgid or (BLOCK,))
    assert plan.host_uid != 0 and not covers(plan.uids, 0)
    if host.uid:
        assert plan.host_uid == host.uid
    total = sum(m.count for m in plan.uids)
    assert plan.single == (total == 1 == sum(m.count for m in plan.gids))
    assert total <= 65537
    assert plan.tool == (not plan.single and host.uid != 0)


@given(host=hosts, text=maps_of_users)
def test_planning_is_pure(host: Host, text: str) -> None:
    def attempt() -> object:
        try:
            return plan_ids(User(map=text, ids="range"), host)
        except HostError as error:
            return str(error)

    assert attempt() == attempt()


@given(text=st.text(max_size=12))
def test_any_text_is_a_map_or_refused(text: str) -> None:
    try:
        plan = plan_ids(User(map=text), PLAIN)
    except ProfileError:
        return
    assert text in ("keep", "root") or f"{plan.uid}:{plan.gid}" == ":".join(
        str(int(part)) for part in text.split(":")
    )


@pytest.mark.parametrize(
    ("user", "ids"),
    [(User(map="root", ids="range"), (65535, 65535)), (User(map="65535:7", ids="range"), (65533, 65533))],
)
def test_what_serves_the_payload_is_nobody_else(user: User, ids: tuple[int, int]) -> None:
    plan = plan_ids(user, PLAIN)
    assert server(plan) == ids
    assert all(
        outside_of(maps, each) is not None for maps, each in zip((plan.uids, plan.gids), ids, strict=True)
    )
    assert server(plan_ids(User(), PLAIN)) == (-1, -1)
