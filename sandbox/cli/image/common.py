"""What the verbs of images share: the store, options for registries, tables."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sandbox.cli.common import Parser
from sandbox.errors import ImageError
from sandbox.image.store import Store
from sandbox.words import printable, quote

if TYPE_CHECKING:
    from sandbox.image.pull import Wanted
    from sandbox.image.reference import Reference
    from sandbox.image.transfer import Options

__all__ = [
    "REGISTRIES_TOML",
    "SHORT_ID",
    "age",
    "json_options",
    "made_options",
    "print_json",
    "print_table",
    "quiet_option",
    "reached",
    "registry_options",
    "said",
    "store",
    "transfer_options",
    "wanted",
]

#: digits of an ID that are shown, as docker's
SHORT_ID = 12

REGISTRIES_TOML = """\
~/.config/sandbox/registries.toml says how registries are reached:

  parallel = 4                          # blobs at once
  max_image = "50G"                     # refuse larger images
  auth_file = "~/auth.json"             # instead of podman's and docker's files

  [registry."docker.io"]
  mirrors = ["mirror.example:5000"]     # tried first, in order
  credential_helper = "pass"            # runs docker-credential-pass

  [registry."localhost:5000"]
  tls = "off"                           # plain HTTP; "unverified": any certificate
  ca = "~/ca.pem"                       # beside the system's; cert and key: our own
"""

_T = TypeVar("_T")


def store() -> Store:
    """The user's own."""
    return Store()


# --- options ----------------------------------------------------------------------------------------------


def quiet_option(parser: Parser, help: str) -> None:
    """Add -q."""
    parser.add_argument("-q", "--quiet", action="store_true", help=help)


def made_options(parser: Parser) -> None:
    """Add what is said of an image that is made of files: --change and --message."""
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="INSTRUCTION",
        help="as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR",
    )
    parser.add_argument("-m", "--message", metavar="TEXT", default="", help="what its history says of it")


def json_options(parser: Parser) -> None:
    """Add --json, and docker's and podman's way to ask for it."""
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--format", type=_json, dest="json", metavar="json", help=argparse.SUPPRESS)


def _json(text: str) -> bool:
    if text.strip() != "json":
        raise argparse.ArgumentTypeError('only "json" is known; jq(1) picks what you want of it')
    return True


def registry_options(parser: Parser) -> None:
    """Add what pulls and pushes have in common."""
    parser.add_argument(
        "--tls-verify",
        metavar="true|false",
        type=_truth,
        nargs="?",
        const=True,
        default=True,
        help="false: take any certificate, and plain HTTP where there is no TLS",
    )
    parser.add_argument(
        "--authfile", metavar="FILE", default="", help="credentials, in place of podman's and docker's files"
    )
    quiet_option(parser, "no progress")


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def wanted(text: str | None) -> Wanted:
    """The value of --platform.

    Raises:
        ImageError: it is none.
    """
    from sandbox.image.platform import parse_platform

    if text is None or text == "all":
        return text  # type: ignore[return-value]
    return parse_platform(text)


def transfer_options(options: argparse.Namespace) -> Options:
    """How to transfer, as the user's registries.toml and the command line say."""
    from sandbox.image.config import load_registries
    from sandbox.image.progress import open_progress
    from sandbox.image.transfer import Options

    registries = load_registries()
    if options.authfile:
        if not os.path.exists(options.authfile):
            mend = f"podman login --authfile {quote(options.authfile)} REGISTRY"
            raise ImageError(f"there is no {options.authfile}, which should have the credentials", mend)
        registries = replace(registries, auth_file=os.path.abspath(options.authfile))
    return Options(
        registries,
        open_progress(sys.stderr, quiet=options.quiet or sys.stderr is None),
        registries.parallel,
        registries.max_image,
    )


def reached(reference: Reference, options: Options, verify: bool, transfer: Callable[[Options], _T]) -> _T:
    """Do *transfer*, with a registry whose certificate, or lack of one, does not matter unless *verify*.

    As podman does it: by HTTPS with whatever certificate, and by plain HTTP where that is all there is.
    What registries.toml says of the registry goes before.
    """
    from sandbox.image.config import Host
    from sandbox.image.registry.transport import NoTls

    name = reference.registry
    known = options.registries.host(name)
    if verify or known.tls != "verify":
        return transfer(options)

    def with_tls(tls: str) -> Options:
        host: Host = replace(known, tls=tls, ca="")  # type: ignore[arg-type]
        hosts = {**options.registries.hosts, name: host}
        return replace(options, registries=replace(options.registries, hosts=hosts))

    try:
        return transfer(with_tls("unverified"))
    except NoTls:
        return transfer(with_tls("off"))


# --- output -----------------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """Print *value* as JSON for people and programs: what is no text in it is escaped."""
    print(json.dumps(value, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print *rows* below *header*, in columns; those of *right* end together. What is shown is cleaned."""
    table = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def age(created: str) -> str:
    """How long ago a time of RFC 3339 was, for people; "" for none or nonsense."""
    try:
        when = datetime.datetime.fromisoformat(created[:19] + "+00:00")
    except ValueError:
        return ""
    seconds = (datetime.datetime.now(datetime.UTC) - when).total_seconds()
    if seconds < 0 or when.year < 1980:  # as builds have it that are the same each time
        return created[:10]
    for unit, length in (("year", 31_557_600), ("month", 2_629_800), ("day", 86_400), ("hour", 3600)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    minutes = int(seconds // 60)
    return f"{minutes} min ago" if minutes else "just now"


def said(name: str) -> str:
    """A name of the store, for people."""
    from sandbox.image.listing import familiar

    return printable(familiar(name))
