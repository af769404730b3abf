"""What is taken from before, what is not, and what is said of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sandbox.errors import BuildError
from sandbox.image import garbage, listing
from sandbox.image.build.records import Records
from sandbox.image.build.report import why
from tests.image.build.conftest import Build
from tests.image.layer.archives import file
from tests.image.stored import put_image

pytestmark = pytest.mark.integration

TEXT = """
FROM base:1 AS tools
ARG VERSION=1
COPY src /src
RUN make $VERSION
FROM base:1
LABEL l=1
COPY --from=tools /src/a.py /a.py
COPY src/b.py /b.py
"""


@pytest.fixture
def project(build: Build) -> Build:
    put_image(build.store, "base:1", [[file("base")]], {"Env": ["PATH=/bin"]})
    build.write({"src/a.py": "a", "src/b.py": "b"})
    build(TEXT)
    assert len(build.told.ran) == 4
    return build


def test_nothing_runs_twice(project: Build) -> None:
    first = project.built
    assert project(TEXT).descriptor == first.image.descriptor  # type: ignore[union-attr]
    assert project.told.ran == []
    assert project.built.cached == 4  # type: ignore[union-attr]


def test_times_do_not_count_and_modes_do(project: Build) -> None:
    os.utime(project.context / "src/a.py", (0, 0))
    project(TEXT)
    assert project.told.ran == []
    (project.context / "src/b.py").chmod(0o755)
    project(TEXT)
    assert project.told.reasons == [
        ["COPY: b.py has another mode"],
        ["the step above ran again"],
        ["COPY: b.py has another mode"],
    ]


def test_a_file_that_changed(project: Build) -> None:
    project.write({"src/a.py": "A", "src/c.py": "c"})
    project(TEXT)
    assert project.told.ran == [
        "COPY src /src",
        "RUN make $VERSION",
        "COPY --from=tools /src/a.py /a.py",
        "COPY src/b.py /b.py",
    ]
    assert project.told.reasons[0] == ["COPY: a.py changed", "COPY: c.py is new"]
    assert project.told.reasons[1] == ["the step above ran again"]
    assert project.told.reasons[2] == ["COPY: a.py changed"]


def test_a_stage_that_comes_out_the_same_changes_nothing_behind_it(project: Build) -> None:
    project.write({"src/c.py": "c"})
    project(TEXT)
    assert project.told.ran == ["COPY src /src", "RUN make $VERSION"]


def test_an_argument_counts_where_a_command_sees_it(project: Build) -> None:
    project(TEXT, args={"VERSION": "2"})
    assert project.told.ran == ["RUN make $VERSION"]
    assert project.told.reasons == [["ARG VERSION is 2, was 1"]]
    project(TEXT)
    assert project.told.ran == [], "both results are kept"


def test_arguments_are_not_in_the_image(project: Build) -> None:
    image = project(TEXT, args={"VERSION": "hidden", "HTTP_PROXY": "proxy"})
    assert b"hidden" not in image.config.raw + image.manifest.raw
    assert b"proxy" not in image.config.raw
    project(TEXT, args={"VERSION": "hidden", "HTTP_PROXY": "another"})
    assert project.told.ran == [], "proxies are no part of a key"


def test_the_configuration_reruns_nothing(project: Build) -> None:
    image = project(TEXT.replace("LABEL l=1", "LABEL l=2\nEXPOSE 80"))
    assert project.told.ran == []
    assert image.config.config.labels == {"l": "2"}


def test_variables_and_user_rerun_commands_only(project: Build) -> None:
    project(TEXT.replace("COPY src /src\n", "COPY src /src\nENV E=1\nUSER 5\n"))
    assert project.told.ran == ["RUN make $VERSION"]
    assert project.told.reasons == [["ENV E is new", "USER is 5, was none"]]


def test_another_base(project: Build) -> None:
    put_image(project.store, "base:1", [[file("another")]], {"Env": ["PATH=/bin"]})
    project(TEXT)
    assert project.told.reasons[0] == ["what it begins with is another"]


def test_a_base_with_another_configuration(project: Build) -> None:
    put_image(project.store, "base:1", [[file("base")]], {"Env": ["PATH=/sbin"]})
    project(TEXT)
    assert project.told.reasons == [["ENV PATH is /sbin, was /bin"]]


def test_without_the_cache(project: Build) -> None:
    before = project.built
    image = project(TEXT, cache=False)
    assert len(project.told.ran) == 4
    assert project.told.reasons == [["--no-cache"]] * 4
    assert image.manifest.layers == before.image.manifest.layers  # type: ignore[union-attr]


def test_a_step_in_between(project: Build) -> None:
    project(TEXT.replace("RUN make", "COPY src /again\nRUN make"))
    assert project.told.ran == ["COPY src /again", "RUN make $VERSION"]
    assert project.told.reasons[1] == ["the step above ran again"]


def test_what_was_pruned_is_made_again(project: Build) -> None:
    Records(project.store.path).forget(0)
    project(TEXT)
    assert len(project.told.ran) == 4


def test_a_record_without_its_layer(project: Build) -> None:
    for layer in project.built.image.manifest.layers[1:]:  # type: ignore[union-attr]
        project.store.blobs.remove(layer.digest)
    image = project(TEXT)
    assert "COPY src/b.py /b.py" in project.told.ran
    assert project.read(image, "b.py") == b"b"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"layer": {"digest": 5}}', b'{"created": "x"}'])
def test_damaged_records(project: Build, damage: bytes) -> None:
    for path in Path(project.store.path, "build").glob("*/*"):
        path.write_bytes(damage)
    project(TEXT)
    assert len(project.told.ran) == 4


def test_digests_are_remembered(project: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.image.build.context._RECENT", 0)
    project(TEXT)
    with monkeypatch.context() as patch:
        patch.setattr("sandbox.image.layer.select.Digests.of", lambda *words: pytest.fail("read again"))
        project(TEXT)
    (known,) = Path(project.store.path, "build/digests").iterdir()
    for damage in (b"", b"{", b"[]", b'{"src/a.py": 5}', b'{"src/a.py": [1, 2, 3, 4, 5, 6]}'):
        known.write_bytes(damage)
        project(TEXT)
        assert project.told.ran == []
    stamp = (project.context / "src/a.py").stat()
    (project.context / "src/a.py").write_text("A")
    os.utime(project.context / "src/a.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    project(TEXT)
    assert project.told.reasons[0] == ["COPY: a.py changed"], "a change time can't be set"


# --- keeping and forgetting ---------------------------------------------------------------------------------


def test_layers_of_builds_are_kept_until_they_are_old(project: Build) -> None:
    store = project.store
    garbage.remove(store, "built:latest")
    garbage.prune(store)
    assert listing.usage(store).builds > 0
    assert listing.usage(store).unreached == 0
    project(TEXT)
    assert project.told.ran == []
    garbage.remove(store, "built:latest")
    old = time.time() - 15 * 86400
    for path in Path(store.path, "build/records").iterdir():
        os.utime(path, (old, old))
    assert garbage.prune(store).blobs > 0
    project(TEXT)
    assert len(project.told.ran) == 4


def test_pruning_builds(project: Build) -> None:
    store = project.store
    garbage.remove(store, "built:latest")
    garbage.remove(store, "base:1")
    garbage.prune(store, builds=True)
    assert store.blobs.all() == []
    assert listing.usage(store).builds == 0


def test_nothing_is_pruned_while_building(project: Build) -> None:
    with project.store.hold():
        assert garbage.prune(project.store).busy


# --- the same again -----------------------------------------------------------------------------------------


def test_reproducible(project: Build) -> None:
    text = "FROM base:1\nCOPY src /new/src\nWORKDIR /w/x\nCOPY <<f /f\n1\nf\nENV A=1\n"
    first = project(text, epoch=1_000_000_000)
    (project.context / "src/a.py").touch()
    second = project(text, epoch=1_000_000_000, cache=False)
    assert first.descriptor == second.descriptor
    assert first.config.created == "2001-09-09T01:46:40Z"
    assert {each.mtime for each in project.tree(first).values()} <= {0, 1_000_000_000}


# --- stages -------------------------------------------------------------------------------------------------


def test_stages_that_need_each_other(project: Build) -> None:
    text = """
[build]
from = "a"
[build.stage.a]
from = "scratch"
steps = [{ copy = "/", from = "b", to = "/" }]
[build.stage.b]
from = "a"
"""
    with pytest.raises(BuildError, match=r"file:\d+:\d+: the stages . and . need each other"):
        project(text)


def test_a_stage_of_itself(project: Build) -> None:
    with pytest.raises(BuildError, match="there is no image x"):
        project("FROM x AS x\n")
    with pytest.raises(BuildError, match="there is no image later"):
        project("FROM scratch\nCOPY --from=later / /\nFROM scratch AS later\n", target="0")


def test_very_many_steps(project: Build) -> None:
    with pytest.raises(BuildError, match=r"file:9002:1: an image can't have more than 9000 steps"):
        project("FROM scratch\n" + "LABEL a=1\n" * 20_000)


def test_an_unknown_target(project: Build) -> None:
    with pytest.raises(BuildError, match="no stage 'tool'; did you mean \"tools\""):
        project(TEXT, target="tool")


def test_triggers_of_the_base(project: Build) -> None:
    project("FROM base:1\nONBUILD COPY src /s\nONBUILD ENV T=$X\n", tag="trigger:1")
    image = project("FROM trigger:1\nCOPY src/a.py /\n")
    assert sorted(project.tree(image)) == ["a.py", "base", "s", "s/a.py", "s/b.py"]
    assert image.config.config.on_build == ()
    put_image(project.store, "bad:1", [[file("x")]], {"OnBuild": ["FROM x"]})
    with pytest.raises(BuildError, match=r"ONBUILD of bad:1:1:1: that is no instruction"):
        project("FROM bad:1\n")


def test_another_platform(project: Build) -> None:
    with pytest.raises(BuildError, match="linux/s390x can't be built here"):
        project("FROM --platform=linux/s390x base:1\n")
    project("FROM --platform=$BUILDPLATFORM base:1\nARG TARGETARCH\nLABEL a=$TARGETARCH\n")


def test_from_toml(project: Build) -> None:
    text = """
[build]
from = "${BASE}:1"
args = { BASE = "base" }
steps = [
  { copy = "src/", to = "/src/", mode = "0700" },
  { write = "no $BASE\\n", to = "/etc/motd" },
  { env = { A = "$BASE" } },
  { copy = "/f", from = "other", to = "/o" },
]
cmd = ["x"]
[build.stage.other]
from = "scratch"
steps = [{ write = "f", to = "/f" }]
"""
    image = project(text)
    assert project.read(image, "etc/motd") == b"no $BASE\n"
    assert project.tree(image)["src/a.py"].mode == 0o700
    assert image.config.config.env == ("PATH=/bin", "A=base")
    project(text)
    assert project.told.ran == []


def test_reasons() -> None:
    assert why(None, {}, above=False, forced=False) == ["it was not built before"]
    assert why({"a": 1}, {"a": 1}, above=False, forced=False) == ["its result was removed from the cache"]
    files = [[f"f{number}", "m", "d"] for number in range(20)]
    found = why({"files": []}, {"files": files}, above=False, forced=False)
    assert len(found) == 9
    assert found[-1] == "COPY: and 12 more"
