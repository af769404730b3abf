"""`RUN --mount=type=...`: what a command sees for as long as it runs."""

from __future__ import annotations

import csv

from sandbox.image.build import template
from sandbox.image.build.place import Place
from sandbox.image.build.steps import Mounted
from sandbox.profile.kinds import nearest

__all__ = ["KINDS", "check_mount", "mount_of"]

#: the options of each type; the first names of those in `_ALIASES` only
KINDS = {
    "bind": ("target", "source", "from", "rw"),
    "cache": ("target", "id", "sharing", "from", "source", "mode", "uid", "gid", "ro"),
    "tmpfs": ("target", "size"),
    "secret": ("target", "id", "required", "mode", "uid", "gid", "env"),
}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "readonly": "ro", "readwrite": "rw"}
_TRUTH = ("ro", "rw", "required")


def mount_of(text: str, place: Place, escape: str = "\\") -> Mounted:
    """What `--mount=`*text* says: `type=cache,target=/root/.cache`.

    Raises:
        BuildError: it is wrong.
    """
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise place.error(f"--mount is a list with commas: {error}") from None
    kind, options = "bind", {}
    for field in fields:
        name, equals, value = field.strip().partition("=")
        name = name.lower()
        if name == "type":
            kind = value
            continue
        name = _ALIASES.get(name, name)
        if not equals:
            value = "true"
        if name in options:
            place.fail(f"--mount says {name} twice")
        try:
            options[name] = template.read(value, escape=escape)
        except template.Bad as bad:
            raise place.error(f"{name} of --mount: {bad.message}") from None
    return check_mount(kind, options, place)


def check_mount(kind: str, options: dict[str, template.Template], place: Place) -> Mounted:
    """The mount, if it is one that there can be.

    Raises:
        BuildError: it is not.
    """
    if kind == "ssh":
        place.fail("a mount of the type ssh is not available: no agent is let into a build")
    if kind not in KINDS:
        place.fail(f"there is no mount of the type {kind!r}{nearest(kind, KINDS)}")
    for name, value in list(options.items()):
        if name in ("ro", "rw") and value in (("true",), ("false",), ("1",), ("0",)):
            opposite = "rw" if name == "ro" else "ro"
            if name not in KINDS[kind]:
                del options[name]
                options[opposite] = ("false",) if value in (("true",), ("1",)) else ("true",)
                name, value = opposite, options[opposite]
                if name not in KINDS[kind]:
                    del options[name]
                    continue
        if name not in KINDS[kind]:
            place.fail(f"a mount of the type {kind} has no {name!r}{nearest(name, KINDS[kind])}")
        if name in _TRUTH and value not in (("true",), ("false",), ("1",), ("0",)):
            place.fail(f"{name} of --mount is true or false")
    if kind != "secret" and "target" not in options:
        place.fail(f"a mount of the type {kind} needs a target")
    if kind == "secret" and "id" not in options and "target" not in options:
        place.fail("a secret needs an id")
    sharing = options.get("sharing")
    if sharing is not None and sharing not in (("shared",), ("private",), ("locked",)):
        place.fail("sharing of --mount is shared, private or locked")
    if any(isinstance(part, template.Variable) for part in options.get("from", ())):
        place.fail("from of --mount has no variables; give the image a name by a stage of its own")
    return Mounted(kind, options)
