"""`sandbox image import` and `export`: root file systems as images, and images as root file systems."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.common import Parser, UsageError
from sandbox.cli.image.common import made_options, quiet_option, store
from sandbox.cli.image.output import reading, writing
from sandbox.errors import ImageError
from sandbox.image import listing
from sandbox.image.platform import parse_platform
from sandbox.image.reference import parse_new_name
from sandbox.image.store import Image, Store
from sandbox.words import quote

__all__ = ["export", "import_"]

_IMPORT = """\
Make a root file system an image of one layer: an archive (tar, compressed or not), a directory, or a
new Debian. It is unpacked at once. Prints the image's ID.
"""
_EXAMPLES = """\
examples:
  sandbox image import rootfs.tar.zst mine:1
  sandbox image import -c 'CMD ["bash"]' -c 'ENV LANG=C.UTF-8' - mine:1 < rootfs.tar
  sandbox image import --debootstrap bookworm debian:bookworm
  sandbox image import --debootstrap trixie mine:tools -- --include=git,gcc

SOURCE_DATE_EPOCH, where it is set, is when the image was made.
"""


def import_(arguments: list[str]) -> int:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = _import_options(arguments[:cut])
    rest = arguments[cut + 1 :]
    words = options.words
    if options.debootstrap:
        words = [options.debootstrap, *words]
    elif rest:
        raise UsageError("options behind -- are for --debootstrap", "image import")
    if len(words) != 2:
        what = "--debootstrap SUITE NAME" if options.debootstrap else "FILE and NAME"
        raise UsageError(
            f"import takes {what}: {len(words) - bool(options.debootstrap)} words", "image import"
        )
    image = _import(store(), words[0], parse_new_name(words[1]).key, options, rest)
    if not options.quiet:
        print(image.id)
    return 0


def _import_options(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("image import", "[options] FILE|DIR|- NAME", _IMPORT, _EXAMPLES)
    parser.add_argument("words", nargs="*", metavar="FILE|DIR|- NAME")
    made_options(parser)
    parser.add_argument("--platform", metavar="OS/ARCH", help="what it is for (default: this machine)")
    parser.add_argument(
        "--debootstrap",
        metavar="SUITE",
        help="install Debian's SUITE with mmdebstrap(1); words behind -- are options of its own",
    )
    quiet_option(parser, "don't print the ID")
    return parser.parse(arguments)


def _import(here: Store, source: str, name: str, options: argparse.Namespace, rest: list[str]) -> Image:
    from sandbox.image import compose
    from sandbox.image.instructions import changed

    created = compose.source_date()
    if options.debootstrap:
        return _debian(here, source, name, options, rest)
    config = changed({}, options.change)
    platform = parse_platform(options.platform) if options.platform else None
    if "://" in source:
        raise ImageError(f"{source} is no file", f"curl -fL {quote(source)} | sandbox image import - NAME")
    settings = {"config": config, "message": options.message, "created": created, "platform": platform}
    if os.path.isdir(source):
        return compose.import_directory(here, source, name, **settings)
    with reading(source, "image import") as file:
        return compose.import_rootfs(here, file, name, **settings)


def _debian(here: Store, suite: str, name: str, options: argparse.Namespace, rest: list[str]) -> Image:
    from sandbox.image import compose
    from sandbox.image.bootstrap import import_debian

    if options.platform:
        raise UsageError(
            "--debootstrap makes what mmdebstrap makes: -- --architectures=arm64", "image import"
        )
    own = rest if any(each.startswith("--variant") for each in rest) else ["--variant=minbase", *rest]
    return import_debian(
        here, suite, name, options=own, changes=options.change, created=compose.source_date()
    )


def export(arguments: list[str]) -> int:
    parser = Parser(
        "image export",
        "[options] NAME",
        "Write an image's root file system, all layers together, as one tar archive.",
        "example: sandbox image export debian:12 | tar -tv | less",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: stdout")
    options = parser.parse(arguments)
    from sandbox.image import compose

    here = store()
    image = listing.lookup(here, options.name).image
    assert image is not None  # lookup raises when it can't be used
    with writing(options.output, "image export") as out:
        compose.export(here, image, out)
    return 0
