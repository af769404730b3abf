"""`sandbox image tag`, `rm` and `prune`: names, and what goes with them."""

from __future__ import annotations

import argparse

from sandbox.cli.common import Parser, UsageError, print_error, say
from sandbox.cli.image.common import json_options, print_json, quiet_option, said, store
from sandbox.errors import ImageError
from sandbox.image import garbage, listing
from sandbox.image.garbage import Freed
from sandbox.image.reference import parse_reference
from sandbox.image.store import Store
from sandbox.units import format_size

__all__ = ["prune", "rm", "tag"]


def tag(arguments: list[str]) -> int:
    parser = Parser(
        "image tag",
        "NAME NEW...",
        "Give an image further names. A name that stood for another is taken over.",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("new", nargs="+", metavar="NEW")
    options = parser.parse(arguments)
    references = [parse_reference(name) for name in options.new]
    here = store()
    descriptor = listing.resolve(here, options.name)[1]
    for reference in references:
        if reference.digest and reference.digest != descriptor.digest:
            message = f"{reference.familiar} names another digest than {options.name} has"
            raise ImageError(message, "give it a name without a digest, as in NAME:TAG")
        here.set_ref(reference.key, descriptor)
    return 0


# --- rm ----------------------------------------------------------------------------------------------


def rm(arguments: list[str]) -> int:
    parser = Parser(
        "image rm",
        "[options] NAME...",
        "Forget names of images, and remove what only they reached. Layers that a sandbox uses now stay\n"
        "until `sandbox image prune`.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="an ID means all names that it has: with -f")
    parser.add_argument("-a", "--all", action="store_true", help="every image")
    parser.add_argument("-f", "--force", action="store_true", help="one that is not there is no error")
    quiet_option(parser, "don't say what was removed")
    options = parser.parse(arguments)
    if bool(options.names) == options.all:
        raise UsageError(
            "name the images, or say --all" if not options.all else "--all, and names?", "image rm"
        )
    here = store()
    names = [each.name for each in listing.images(here)] if options.all else _named(here, options)
    for name in dict.fromkeys(names):
        freed = garbage.remove(here, name)
        if not options.quiet:
            print(said(name))
            _tell(freed, said(name))
    return 0


def _named(here: Store, options: argparse.Namespace) -> list[str]:
    """The names to forget; none is forgotten if one of them is wrong."""
    found: list[str] = []
    for text in options.names:
        try:
            name, descriptor = listing.resolve(here, text)
        except ImageError as error:
            if options.force:
                continue
            raise error from None
        same = [name]
        if not _is_name(text, name):
            of_it = [each for each, other in here.refs.all().items() if other.digest == descriptor.digest]
            same = [each for each in of_it if not each.startswith("@")]  # those are kept sandboxes'
            if len(same) > 1 and not options.force:
                names = " ".join(map(said, same))
                raise ImageError(f"{text} has several names: {names}", f"sandbox image rm {names}")
        found += same
    return found


def _is_name(text: str, name: str) -> bool:
    """Whether *text* is a name, rather than an ID."""
    try:
        return text == name or parse_reference(text).key == name or "@" in text
    except ImageError:
        return False


# --- prune ----------------------------------------------------------------------------------------------


def prune(arguments: list[str]) -> int:
    parser = Parser(
        "image prune",
        "[options]",
        "Remove what no name reaches: blobs, unpacked layers, interrupted downloads, and what crashes left.\n"
        "Nothing that can't be fetched or made again is removed but that.",
    )
    parser.add_argument(
        "--unpacked",
        action="store_true",
        help="unpacked layers of images, too, where no sandbox uses them; they are made again when needed",
    )
    parser.add_argument(
        "--builds",
        action="store_true",
        help="what builds keep for the next one, too, and not only what they did not use for two weeks",
    )
    parser.add_argument("-f", "--force", action="store_true", help=argparse.SUPPRESS)  # there is no question
    quiet_option(parser, "don't say what was removed")
    json_options(parser)
    options = parser.parse(arguments)
    freed = garbage.prune(store(), unpacked=options.unpacked, builds=options.builds)
    if options.json:
        print_json(freed._asdict())
    elif not options.quiet and not freed.busy:
        print(f"{freed.blobs} blobs of {format_size(freed.bytes)} and {freed.layers} unpacked layers removed")
    if freed.busy:
        error = ImageError(
            "nothing was removed: another process adds or unpacks images",
            "sandbox image prune, when it has ended",
        )
        print_error(error)
        return 125
    return 0


def _tell(freed: Freed, name: str) -> None:
    """What could not be removed yet, and why."""
    later = "`sandbox image prune` removes it later"
    if freed.busy:
        say(f"what only {name} reached is still here, for images are being added or unpacked: {later}")
    elif freed.kept:
        say(f"{freed.kept} layers of {name} are in use, and still here: {later}")
