"""Runs in boxes: which box a call is in, as `run --name N --keep` and `sandbox.run(name=, keep=)` say it.

Launching asks for this by name (`sandbox.launch.kept`), since boxes lie above it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, TextIO

from sandbox.box.boxes import Box, Boxes
from sandbox.errors import ProfileError, SandboxError
from sandbox.profile.model import Profile

__all__ = ["box_for", "give_up", "overrides_for"]


def box_for(
    name: str,
    keep: bool,
    profile: str | Profile | None,
    overrides: Mapping[str, object],
    cwd: str,
    progress: TextIO | None,
) -> Box | None:
    """The box *name*, made of the profile's image if there is none and it is to be kept; None when there is
    none and nothing is to stay. *progress* is told of a pull.

    Raises:
        ProfileError: there is no image to run in or to keep changes of, or another one.
        ImageError: it is in use, or can't be made.
    """
    boxes = Boxes()
    asked = _text(overrides.get("root.from"))
    if boxes.exists(name):
        box = boxes.open(name)
        if asked and asked != f"image:{box.record.reference}":
            box.close()
            raise ProfileError(
                f"{name} is kept, and is of image:{box.record.reference}, not {asked}",
                f"leave out the root, or remove it first: sandbox rm {name}",
            )
        return box
    loaded = _loaded(profile, overrides, cwd)
    if keep:
        return _make(boxes, name, loaded, progress)
    if not loaded.root.source.startswith("image:"):  # a name that was mistyped, rather than one of no use
        raise ProfileError(
            f"there is no kept sandbox {name}, and no image to run in",
            f"sandbox ps lists what there is; to make one: sandbox run --name {name} --keep --image REF ...",
        )
    return None


def _make(boxes: Boxes, name: str, profile: Profile, progress: TextIO | None) -> Box:
    from sandbox.host import probe
    from sandbox.image.root import find

    scheme, _, reference = profile.root.source.partition(":")
    if scheme != "image" or profile.root.layers:
        raise ProfileError(
            f'what changes in an image can be kept, and the root is "{profile.root.source}"',
            "name an image: --image REF",
        )
    image = find(boxes.store, reference, progress)
    driver = profile.root.driver
    if driver == "auto":  # for good: what one has written the other reads wrongly
        driver = "overlay" if probe(need=("overlay",)).overlay else "fuse-overlayfs"
    return boxes.make(name, reference, image, driver)


def _loaded(profile: str | Profile | None, overrides: Mapping[str, object], cwd: str) -> Profile:
    from sandbox.profile import adjust, load

    if isinstance(profile, Profile):
        return adjust(profile, overrides, cwd=cwd)
    return load(profile, overrides, cwd=cwd)


def give_up(box: Box) -> None:
    """Let a box go after a call that ran nothing; one that was made for it is removed."""
    box.close()
    if box.new:
        with contextlib.suppress(SandboxError):  # somebody else goes on in it meanwhile
            Boxes().remove(box.record.name)


def overrides_for(box: Box, overrides: Mapping[str, object]) -> dict[str, object]:
    """*overrides* with what a box decides: its image, and that changes are on disk."""
    from sandbox.profile.loader import Given
    from sandbox.profile.model import Origin

    origin = Origin(f"sandbox {box.record.name}")
    mine: dict[str, Any] = {"root.from": f"image:{box.record.reference}", "root.writable": "disk"}
    mine["root.driver"] = box.record.driver  # what one has written the other reads wrongly
    return {**overrides, **{key: Given(value, origin) for key, value in mine.items()}}


def _text(value: object) -> str:
    inner = getattr(value, "value", value)
    return inner if isinstance(inner, str) else ""
