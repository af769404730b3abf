"""What RUN --mount shows to a command: secrets, caches, and snapshots of files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sandbox.image.build import steps
from sandbox.image.build.commands import Mount
from sandbox.image.build.keys import is_octal, key_of
from sandbox.image.build.records import Made
from sandbox.image.build.state import State
from sandbox.image.compose import Packed
from sandbox.root.tables import RESERVED

if TYPE_CHECKING:
    from sandbox.image.build.engine import Builder

__all__ = ["Mounts"]


class Mounts:
    """The mounts of *step* in the stage *index*, which is at *state*."""

    def __init__(self, builder: Builder, index: int, state: State, step: steps.Run) -> None:
        self._builder = builder
        self._index = index
        self._state = state
        self._step = step

    def all(self) -> tuple[list[Mount], list[Any]]:
        """What the command sees besides, and what of that is part of its key."""
        mounts: list[Mount] = []
        said: list[Any] = []
        for each in self._step.mounts:
            options = {name: self._state.filler()(word) for name, word in each.options.items()}
            target = options.get("target") or f"/run/secrets/{options.get('id', '')}"
            target = os.path.normpath(os.path.join("/", self._state.workdir, target))
            if target in RESERVED or target.startswith("/proc/"):
                what = "the whole root" if target == "/" else target
                self._step.place.fail(
                    f"a mount can't replace {what}, which every step has for itself",
                    "mount it on another path, as in /mnt",
                )
            mount, part = self._mount(each.kind, target, options)
            said.append([each.kind, target, part])
            if mount is not None:
                mounts.append(mount)
        return mounts, said

    def _mount(self, kind: str, target: str, options: Mapping[str, str]) -> tuple[Mount | None, Any]:
        numbers = {name: _number(self._step, options, name) for name in ("uid", "gid", "size")}
        mode = int(options["mode"], 8) if is_octal(options.get("mode", "")) else None
        if "mode" in options and mode is None:
            self._step.place.fail("mode of --mount is an octal number")
        if kind == "tmpfs":
            return Mount("tmpfs", target, size=numbers["size"] or 0), options
        if kind == "cache":
            if "from" in options or "source" in options:
                self._step.place.fail(
                    "a cache begins empty: from and source of --mount=type=cache are not available"
                )
            name = options.get("id") or target
            sharing, readonly = options.get("sharing", "shared"), options.get("ro") in ("true", "1")
            owner = (numbers["uid"] or 0, numbers["gid"] or 0)
            return Mount(
                "cache", target, name, readonly=readonly, sharing=sharing, owner=owner, mode=mode
            ), name
        if kind == "secret":
            return self._secret(target, options, numbers, mode)
        return self._bind(target, options)

    def _secret(
        self,
        target: str,
        options: Mapping[str, str],
        numbers: Mapping[str, int | None],
        mode: int | None,
    ) -> tuple[Mount | None, Any]:
        """The content of a secret is part of no key, no layer and no history."""
        name = options.get("id") or os.path.basename(target)
        content = self._builder.settings.secrets.get(name)
        if content is None:
            if options.get("required") in ("true", "1"):
                self._step.place.fail(
                    f"the secret {name} is required", f"sandbox build --secret id={name},src=FILE ..."
                )
            return None, [name, "missing"]
        owner = (numbers["uid"] or 0, numbers["gid"] or 0)
        variable = options.get("env", "")
        if variable and b"\0" in content:
            self._step.place.fail(
                f"the secret {name} has a null byte in it, and no variable can have that",
                "leave out env, and read it from its file",
            )
        path = target if "target" in options or not variable else ""
        kind = Mount(
            "secret", path, variable, content=content, owner=owner, mode=0o400 if mode is None else mode
        )
        return kind, [name, variable]

    def _bind(self, target: str, options: Mapping[str, str]) -> tuple[Mount, Any]:
        """A snapshot: a layer of its own, so that the command sees what its key says, and nothing that an
        ignore file leaves out."""
        source = options.get("source", ".") or "."
        writable = options.get("rw") in ("true", "1")
        request: dict[str, Any] = {"destination": "/", "owner": "", "mode": None}
        if "from" in options:
            found = self._builder.source(options["from"], self._index, self._step.place)
            asked = {"sources": [source], "exclude": [], "parents": False, "where": options["from"]}
            digest, _ = self._builder.layers.select(found, asked)
            request |= asked

            def make() -> Packed | None:
                return self._builder.layers.copy(None, found, request)
        else:
            context = self._builder.context
            if context is None:
                self._step.place.fail("there is no context to bind")
            taken = context.take([source])
            digest = taken.digest
            request |= {"single": taken.selection.single, "archives": []}

            def make() -> Packed | None:
                epoch = self._builder.settings.epoch
                return self._builder.layers.place(None, request, lambda out: context.send(taken, out, epoch))

        key = key_of({"snapshot": digest})
        made = self._builder.records.get(key) if self._builder.settings.cache else None
        if made is None or (made.layer and not self._builder.store.has_blob(made.layer.digest)):
            made = self._made(make())
            self._builder.records.put(key, made, made.diff_id)
        name = os.path.basename(source.rstrip("/")) if source not in (".", "/") else ""
        return Mount("bind", target, name, layer=made, readonly=not writable), [digest, writable]

    def _made(self, packed: Packed | None) -> Made:
        return Made(packed.descriptor, packed.diff_id, 0) if packed else Made(None, None, 0)


def _number(step: steps.Step, options: Mapping[str, str], name: str) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if name == "size":
        from sandbox.units import parse_size

        try:
            return parse_size(text)
        except ValueError as error:
            step.place.fail(f"size of --mount: {error}")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        step.place.fail(f"{name} of --mount is a number")
    return int(text)
