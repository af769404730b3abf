"""`sandbox image pull`, which is `sandbox pull`, too."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sandbox.cli.common import Parser
from sandbox.cli.image.common import (
    REGISTRIES_TOML,
    reached,
    registry_options,
    store,
    transfer_options,
    wanted,
)
from sandbox.image.reference import parse_reference
from sandbox.image.store import Store

if TYPE_CHECKING:
    from sandbox.image.manifest import Descriptor
    from sandbox.image.pull import Wanted
    from sandbox.image.reference import Reference
    from sandbox.image.transfer import Options

__all__ = ["pull"]

_DESCRIPTION = """\
Fetch images from registries, verify them, and unpack their layers. What is here already is not fetched
again; what was interrupted is gone on with. Prints the ID of each.
"""
_EPILOG = (
    """\
examples:
  sandbox image pull debian:12
  sandbox image pull --platform linux/arm64 registry.example/team/tool@sha256:...
  sandbox image pull --tls-verify=false localhost:5000/tool

"""
    + REGISTRIES_TOML
)


def pull(arguments: list[str]) -> int:
    parser = Parser("image pull", "[options] NAME...", _DESCRIPTION, _EPILOG)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH",
        help="of an image for several: linux/arm64, arm64; all: every one (default: this machine's)",
    )
    parser.add_argument("--no-unpack", action="store_true", help="leave unpacking to the first use")
    registry_options(parser)
    options = parser.parse(arguments)
    references = [parse_reference(name) for name in options.names]
    platform, here = wanted(options.platform), store()
    for reference in references:
        print(_pull(here, reference, platform, options))
    return 0


def _pull(here: Store, reference: Reference, platform: Wanted, options: argparse.Namespace) -> str:
    """Pull one; its ID."""
    from sandbox.image import pull as pulling

    transfer = transfer_options(options)

    def do(transfer: Options) -> pulling.Pulled:
        def unpack(descriptor: Descriptor) -> None:
            image = here.image(descriptor, reference.familiar, None if platform == "all" else platform)
            count = len(image.manifest.layers)
            transfer.progress.say(f"unpacking {count} layer{'s' if count != 1 else ''}")
            here.stack(image).lease.close()

        ready = None if options.no_unpack or platform == "all" else unpack
        return pulling.pull(reference, here, platform, transfer, ready)

    with transfer.progress:
        transfer.progress.say(f"pulling {reference.familiar}")
        pulled = reached(reference, transfer, options.tls_verify, do)
    if platform == "all" or not pulled.images:
        return str(pulled.descriptor.digest)
    return str(pulled.images[0].manifest.config.digest)
