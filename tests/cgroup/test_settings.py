"""Which value goes into which file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import cgroup
from sandbox.cgroup import Setting, held, setting, settings
from sandbox.profile.model import Limits

ALL = ("memory", "pids", "cpu", "io", "cpuset")


def written(limits: Limits, controllers: tuple[str, ...] = ALL, *, swap: bool = True) -> dict[str, str]:
    names = held(limits, controllers)
    found = settings(limits, names, {"/a": "8:0", "/b": "8:0", "/c": "253:1"}, swap=swap)
    return {each.file: each.value for each in found}


def test_memory_is_not_to_be_had_again_as_swap() -> None:
    assert written(Limits(memory=1 << 28)) == {"memory.max": "268435456", "memory.swap.max": "0"}
    assert written(Limits(memory=1 << 28, swap=1 << 20))["memory.swap.max"] == "1048576"
    assert written(Limits(swap=0)) == {"memory.swap.max": "0"}
    assert written(Limits(memory=1 << 28, memory_high=1 << 27))["memory.high"] == "134217728"


def test_where_there_is_no_swap_its_file_may_be_missing() -> None:
    limits = Limits(memory=1 << 28)
    for swap in (True, False):
        found = settings(limits, held(limits, ALL), {}, swap=swap)
        assert [each.optional for each in found if each.file == "memory.swap.max"] == [not swap]
    explicit = Limits(memory=1 << 28, swap=0)
    assert not any(each.optional for each in settings(explicit, held(explicit, ALL), {}, swap=False))


def test_init_is_counted_besides() -> None:
    assert written(Limits(pids=10)) == {"pids.max": "11"}
    assert written(Limits(pids=1 << 22)) == {"pids.max": str(1 << 22)}  # more is EINVAL


@pytest.mark.parametrize(("cpus", "text"), [(1, "100000"), (1.5, "150000"), (0.01, "1000"), (0.333, "33300")])
def test_cpus_are_a_quota_of_a_period(cpus: float, text: str) -> None:
    assert written(Limits(cpus=cpus)) == {"cpu.max": f"{text} 100000"}


def test_weights_and_sets() -> None:
    assert written(Limits(cpu_weight=50, cpuset="3,0-1,2,7")) == {"cpu.weight": "50", "cpuset.cpus": "0-3,7"}


def test_of_two_paths_on_one_disk_the_smaller_numbers() -> None:
    limits = Limits(io={"/a": {"rbps": 10, "wiops": 5}, "/b": {"rbps": 7, "wbps": 9}, "/c": {"riops": 1}})
    found = settings(limits, held(limits, ALL), {"/a": "8:0", "/b": "8:0", "/c": "253:1"}, swap=False)
    assert [each.value for each in found] == ["8:0 rbps=7 wiops=5 wbps=9", "253:1 riops=1"]


def test_only_what_a_controller_is_there_for() -> None:
    limits = Limits(memory=1 << 28, pids=5, cpus=1, cpu_time=2, io={"/a": {"rbps": 1}})
    assert held(limits, ()) == {"cpu_time"}
    assert held(limits, ("pids", "io")) == {"cpu_time", "pids", "io"}
    assert written(limits, ("pids",)) == {"pids.max": "6"}
    assert held(Limits(), ALL) == frozenset()


def test_a_limit_can_be_taken_away_again() -> None:
    assert [setting(name, None).value for name in cgroup.LIVE] == [
        "max",
        "max",
        "max",
        "max",
        "max 100000",
        "100",
        "\n",
    ]
    assert setting("memory", 5) == Setting("memory", "memory.max", "5")
    with pytest.raises(KeyError):
        setting("timeout", 5)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_sets_of_cpus_are_written_as_the_kernel_does(cpus: set[int]) -> None:
    text = setting("cpuset", ",".join(map(str, cpus))).value
    back: set[int] = set()
    previous = -2
    for part in text.split(","):
        first, _, last = part.partition("-")
        assert int(first) > previous + 1  # in order, and neighbours are one range
        previous = int(last or first)
        back |= set(range(int(first), previous + 1))
    assert back == cpus
