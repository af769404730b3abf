"""`sandbox image push`, which is `sandbox push`, too."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.cli.common import Parser
from sandbox.cli.image.common import REGISTRIES_TOML, reached, registry_options, store, transfer_options
from sandbox.image import listing
from sandbox.image.digest import Digest
from sandbox.image.reference import Reference, parse_reference
from sandbox.image.store import Store

__all__ = ["push"]

_DESCRIPTION = """\
Bring an image to the registry that its name says, or that of DEST, another name for it. What the
registry has already is not sent again. Prints the name and digest it has there.
"""
_EPILOG = (
    """\
examples:
  sandbox image push registry.example/team/tool:1.2
  sandbox image push tool registry.example/team/tool:latest

"""
    + REGISTRIES_TOML
)


def push(arguments: list[str]) -> int:
    parser = Parser("image push", "[options] NAME [DEST]", _DESCRIPTION, _EPILOG)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("dest", nargs="?", metavar="DEST")
    registry_options(parser)
    options = parser.parse(arguments)
    here = store()
    name, descriptor = listing.resolve(here, options.name)
    reference = parse_reference((options.dest or name).removeprefix("docker://"))
    from sandbox.image import push as pushing

    transfer = transfer_options(options)
    with transfer.progress:
        transfer.progress.say(f"pushing {reference.familiar}")
        where = _mounts(here, reference)
        pushed = reached(
            reference,
            transfer,
            options.tls_verify,
            lambda transfer: pushing.push(reference, here, transfer, descriptor, where),
        )
    print(f"{reference.name}@{pushed.descriptor.digest}")
    return 0


def _mounts(here: Store, reference: Reference) -> Callable[[Digest], str]:
    """Which other repository of the registry probably has a blob: that of another image here."""
    known: dict[Digest, str] = {}
    for listed in listing.images(here):
        if listed.image is None or not listed.name.startswith(f"{reference.registry}/"):
            continue
        repository = parse_reference(listed.name).repository
        if repository != reference.repository:
            known |= {layer.digest: repository for layer in listed.image.manifest.layers}
    return lambda digest: known.get(digest, "")
