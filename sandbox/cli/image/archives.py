"""`sandbox image load` and `save`: images from and to archives and directories."""

from __future__ import annotations

import os

from sandbox.cli.common import Parser, UsageError, nearest
from sandbox.cli.image.common import quiet_option, said, store
from sandbox.cli.image.output import naming, reading, writing
from sandbox.image import listing
from sandbox.image.reference import parse_new_name
from sandbox.image.store import Store

__all__ = ["load", "save"]

#: --format, by ours and podman's names
_FORMATS = {
    "oci": "oci",
    "oci-archive": "oci",
    "docker": "docker",
    "docker-archive": "docker",
    "dir": "dir",
    "oci-dir": "dir",
}


def load(arguments: list[str]) -> int:
    parser = Parser(
        "image load",
        "[options] [FILE|DIR|-]",
        "Take images from an archive, of OCI's or docker's format and compressed or not, or from a\n"
        "directory with an OCI layout. Prints their names.",
        "examples:\n  sandbox image load tool.tar\n  podman save debian:12 | sandbox image load",
    )
    parser.add_argument("source", nargs="?", metavar="FILE|DIR|-", help="default: stdin")
    parser.add_argument("-i", "--input", metavar="FILE", help="the same, as docker has it")
    parser.add_argument("-n", "--name", metavar="NAME", help="what to call the image, if there is one")
    quiet_option(parser, "don't print names")
    options = parser.parse(arguments)
    if options.source and options.input:
        raise UsageError("FILE and --input are the same: name one", "image load")
    source = options.source or options.input
    name = parse_new_name(options.name).key if options.name else None
    found = _load(store(), source, name)
    if not options.quiet:
        print("".join(f"{said(each)}\n" for each in found), end="")
    return 0


def _load(here: Store, source: str | None, name: str | None) -> list[str]:
    from sandbox.image.load import load

    if source and os.path.isdir(source):
        with naming(source):
            return load(here, source, name)
    with reading(source, "image load") as file:
        return load(here, source if source and os.path.isfile(source) else file, name)


def save(arguments: list[str]) -> int:
    parser = Parser(
        "image save",
        "[options] NAME...",
        "Write images to one archive, or with --format dir to a directory. The same images always give the\n"
        "same bytes.",
        "examples:\n"
        "  sandbox image save -o tool.tar tool:1.2\n"
        "  sandbox image save --format docker tool | docker load",
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: stdout")
    parser.add_argument(
        "--format",
        default="oci",
        metavar="oci|docker|dir",
        help="OCI's archive (the default), docker's, or a directory with an OCI layout",
    )
    quiet_option(parser, "nothing is said anyway")
    options = parser.parse(arguments)
    form = _FORMATS.get(options.format)
    if form is None:
        raise UsageError(
            f"unknown format {options.format!r}{nearest(options.format, _FORMATS)}", "image save"
        )
    here = store()
    images = list(
        {each.name: each for each in (listing.lookup(here, name) for name in options.names)}.values()
    )
    from sandbox.image.save import save, save_directory

    if form == "dir":
        if options.output in (None, "-"):
            raise UsageError("--format dir needs a directory: -o DIR", "image save")
        save_directory(here, images, options.output)
        return 0
    with writing(options.output, "image save") as out:
        save(here, images, out, form)
    return 0
