"""`sandbox image ls`, `inspect` and `history`: what is there. Nothing is changed here."""

from __future__ import annotations

import fnmatch
from typing import Any

from sandbox.cli.common import Parser
from sandbox.cli.image.common import (
    SHORT_ID,
    age,
    json_options,
    print_json,
    print_table,
    quiet_option,
    store,
)
from sandbox.image import listing
from sandbox.image.listing import Listed, Step, familiar
from sandbox.image.platform import host_platform
from sandbox.units import format_size

__all__ = ["history", "inspect", "ls"]

_LS = """\
The images that are here. SIZE is what their layers have as they are transferred, compressed; UNIQUE is
how much of that no other image has.
"""


def ls(arguments: list[str]) -> int:
    parser = Parser("image ls", "[options] [PATTERN]", _LS, "example: sandbox image ls 'debian:*'")
    parser.add_argument(
        "pattern", nargs="?", metavar="PATTERN", help="only names like this, as a shell has it"
    )
    parser.add_argument(
        "--disk", action="store_true", help="what they take on disk, unpacked layers included"
    )
    parser.add_argument("--digests", action="store_true", help="show digests of manifests, too")
    parser.add_argument("--no-trunc", action="store_true", help="show IDs and digests whole")
    parser.add_argument("-a", "--all", action="store_true", help="all names: there are no others")
    quiet_option(parser, "only IDs")
    json_options(parser)
    options = parser.parse(arguments)
    here = store()
    everything = listing.images(here)
    found = [each for each in everything if _matches(each.name, options.pattern)]
    found.sort(key=lambda each: familiar(each.name))
    if options.quiet:
        print(
            "".join(f"{each}\n" for each in dict.fromkeys(_id(each, options.no_trunc) for each in found)),
            end="",
        )
        return 0
    own = listing.own_sizes(everything)
    usage = listing.usage(here) if options.disk else None
    if options.json:
        print_json([_as_json(each, own, usage) for each in found])
    elif usage:
        _print_disk(found, usage, options.pattern is None)
    else:
        _print(found, own, options.digests, options.no_trunc)
    return 0


def _matches(name: str, pattern: str | None) -> bool:
    """Whether one of a name's ways of being written is like the pattern; without a tag, any tag will do."""
    if pattern is None:
        return True
    short = familiar(name)
    written = {name, short, name.removesuffix(":latest"), short.removesuffix(":latest")}
    written |= {short.partition("@")[0].rpartition(":")[0], name.partition("@")[0].rpartition(":")[0]}
    return any(fnmatch.fnmatchcase(each, pattern) for each in written)


def _id(each: Listed, whole: bool) -> str:
    digest = each.image.id if each.image else each.descriptor.digest
    return str(digest) if whole else digest.hex[:SHORT_ID]


def _print(found: list[Listed], own: dict[str, int], digests: bool, whole: bool) -> None:
    here = host_platform()
    foreign = any(each.image and each.image.config.platform != here for each in found)
    header = ["NAME", "ID", *(["DIGEST"] if digests else []), *(["PLATFORM"] if foreign else [])]
    rows = []
    for each in found:
        row = [_shown(each.name, whole), _id(each, whole)]
        if digests:
            row.append(str(each.descriptor.digest)[: None if whole else 19])
        if foreign:
            row.append(str(each.image.config.platform) if each.image else "")
        if each.image:
            row += [age(each.image.config.created), format_size(each.size), format_size(own[each.name])]
        else:
            row += ["unusable", "", ""]
        rows.append(row)
    last = len(header)
    print_table([*header, "CREATED", "SIZE", "UNIQUE"], rows, (last + 1, last + 2))


def _shown(name: str, whole: bool) -> str:
    """A name for the table; one with a digest is cut, and still means the image."""
    short = familiar(name)
    repository, at, digest = short.partition("@")
    return short if whole or not at else f"{repository}@{digest[: 7 + SHORT_ID]}"


def _print_disk(found: list[Listed], usage: listing.Usage, total: bool) -> None:
    rows = []
    for each in found:
        share = usage.images[each.name]
        rows.append([_shown(each.name, False), _id(each, False), *map(format_size, share)])
    print_table(["NAME", "ID", "BLOBS", "UNIQUE", "UNPACKED", "UNIQUE"], rows, (2, 3, 4, 5))
    if total:
        parts = f"{format_size(usage.blobs)} in blobs, {format_size(usage.unpacked)} unpacked"
        print(f"\nall together: {parts}; `sandbox image prune` would free {format_size(usage.unreached)}")
        if usage.builds:
            print(f"kept for builds: {format_size(usage.builds)}; `sandbox image prune --builds` frees it")


def _as_json(each: Listed, own: dict[str, int], usage: listing.Usage | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": each.name,
        "id": str(each.image.id) if each.image else None,
        "digest": str(each.descriptor.digest),
        "platform": str(each.image.config.platform) if each.image else None,
        "created": each.image.config.created if each.image else None,
        "size": each.size,
        "unique": own[each.name],
        "problem": each.problem or None,
    }
    if usage:
        found["disk"] = usage.images[each.name]._asdict()
    return found


# --- inspect ----------------------------------------------------------------------------------------------


def inspect(arguments: list[str]) -> int:
    parser = Parser(
        "image inspect",
        "NAME...",
        "All that is known of images, as a list in JSON: name, ID, digest, platform, size, and the manifest\n"
        "and configuration as they came.",
        "example: sandbox image inspect debian:12 | jq '.[0].config.config.Env'",
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    json_options(parser)
    options = parser.parse(arguments)
    here = store()
    print_json([listing.inspect(listing.lookup(here, name)) for name in options.names])
    return 0


# --- history ----------------------------------------------------------------------------------------------


def history(arguments: list[str]) -> int:
    parser = Parser(
        "image history",
        "[options] NAME",
        "How an image came to be, newest first. SIZE is a layer's, compressed.",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--no-trunc", action="store_true", help="show commands and digests whole")
    quiet_option(parser, "only the digests of layers")
    json_options(parser)
    options = parser.parse(arguments)
    image = listing.lookup(store(), options.name).image
    assert image is not None  # lookup raises when it can't be used
    steps = listing.history(image)
    if options.json:
        print_json([_step(each) for each in steps])
        return 0
    layers = [
        str(each.layer) if options.no_trunc else each.layer.hex[:SHORT_ID] for each in steps if each.layer
    ]
    if options.quiet:
        print("".join(f"{each}\n" for each in layers), end="")
        return 0
    left = iter(layers)
    rows = []
    for each in steps:
        size = format_size(each.size) if each.layer else ""
        text = " ".join(each.history.created_by.split())
        rows.append(
            [
                next(left) if each.layer else "",
                age(each.history.created),
                size,
                text if options.no_trunc or len(text) <= 60 else text[:57] + "...",
                each.history.comment,
            ]
        )
    print_table(["LAYER", "CREATED", "SIZE", "BY", "COMMENT"], rows, (2,))
    return 0


def _step(each: Step) -> dict[str, Any]:
    return {
        "layer": str(each.layer) if each.layer else None,
        "size": each.size,
        "created": each.history.created,
        "created_by": each.history.created_by,
        "author": each.history.author,
        "comment": each.history.comment,
        "empty_layer": each.history.empty_layer,
    }
