"""Stacks of layers against a simple model, and against what the kernel's overlay shows of them."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.image.layer.archives import Item, hardlink, opaque, whiteout
from tests.image.layer.model import Invalid, Model

Layers = list[list[Item]]


def as_json(listing: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        path: [[list(x) for x in v] if isinstance(v, list) else v for v in said]
        for path, said in listing.items()
    }


def check(stack: Any, layers: Layers, **options: Any) -> dict[str, Any]:
    """Both views are what the model says; or both sides refuse."""
    model = Model()
    answer: dict[str, Any] = stack(*layers, **options)
    assert not answer.get("error", "").startswith("FAILED"), answer["error"]
    try:
        for layer in layers:
            model.apply(layer)
    except Invalid:
        assert "error" in answer, "the model refuses this"
        return answer
    assert "error" not in answer, answer["error"]
    expected = as_json(model.listing())
    assert as_json(answer["merged"]) == expected
    assert as_json(answer["kernel"]) == expected
    return answer


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.one_of(PATHS, PATHS.map("/{}".format), PATHS.map("../{}".format), st.just("."), st.just("/"))
OWNERS = st.sampled_from([0, 0, 1, 1000, 65535])
MODES = st.sampled_from([0o755, 0o700, 0o000, 0o1777, 0o4755, 0o2750, 0o644])
TIMES = st.sampled_from([0, 1, 1_700_000_000])
XATTRS = st.sampled_from([(), (), (("user.one", b"1"), ("user.two", b"2"))])
COMMON = {"mode": MODES, "uid": OWNERS, "gid": OWNERS, "mtime": TIMES, "xattrs": XATTRS}
ITEMS = st.one_of(
    st.builds(Item, st.just("file"), PATHS, data=st.binary(max_size=3), **COMMON),
    st.builds(Item, st.just("dir"), st.one_of(PATHS, st.just("."), PATHS.map("./{}/".format)), **COMMON),
    st.builds(lambda n, t, u: Item("symlink", n, link=t, mode=0o777, uid=u), PATHS, TARGETS, OWNERS),
    st.builds(hardlink, PATHS, PATHS),
    st.builds(whiteout, PATHS),
    st.builds(opaque, st.one_of(PATHS, st.just(""))),
    st.builds(lambda n, u: Item("fifo", n, uid=u), PATHS, OWNERS),
    st.builds(lambda n: Item("char", n), PATHS),
)
LAYERS = st.lists(st.lists(ITEMS, max_size=8), min_size=1, max_size=4)
LONG = st.lists(st.lists(ITEMS, max_size=14), min_size=2, max_size=5)


def without_refused(layers: Layers) -> Layers:
    """The layers less all that can't be applied."""
    model, kept = Model(), []
    for layer in layers:
        kept.append([])
        model.apply([])
        for item in layer:
            attempt = copy.deepcopy(model)
            with contextlib.suppress(Invalid):
                attempt.entry(item)
                kept[-1].append(item)
                model = attempt
    return kept


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=LAYERS)
def test_random_stacks(stack: Any, layers: Layers) -> None:
    """Two of three are refused, by both."""
    check(stack, layers)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=LONG)
def test_random_stacks_of_what_is_valid(stack: Any, layers: Layers) -> None:
    check(stack, without_refused(layers))
