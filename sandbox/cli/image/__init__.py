"""`sandbox image`: a module a verb (or a few of a kind), imported when it is called; the work is
`sandbox.image`'s. `sandbox pull`, `push` and the like are the same under shorter names."""

from __future__ import annotations

from importlib import import_module

from sandbox.cli.common import UsageError, nearest

__all__ = ["main"]

_HELP = """\
usage: sandbox image COMMAND [options]

Images: file systems to run in, in layers that all of your sandboxes share. They come from
registries, files and your own sandboxes, and are kept in ~/.local/share/sandbox/images.

  build [CONTEXT]        make one by the steps of a Containerfile or a TOML file
  pull NAME...           fetch an image from a registry
  push NAME [DEST]       bring one to a registry
  ls [PATTERN]           the images that are here
  inspect NAME...        all that is known of an image, as JSON
  history NAME           how it came to be, layer by layer
  tag NAME NEW...        give it further names
  rm NAME...             forget names, and remove what only they reached
  prune                  remove what no name reaches
  load [FILE]            take images from an archive or directory
  save NAME...           write images to an archive or directory
  import FILE NAME       make a root file system's archive an image
  export NAME            write an image's root file system as an archive
  check [--repair]       whether everything here is as it should be

A NAME is written as docker does: debian:12, registry.example/team/tool@sha256:...; without a
registry it is one of docker.io's. What is here can also be named by an ID, or its beginning.

Registries are reached by verified HTTPS, and logged in to with what `podman login` or
`docker login` left. Mirrors, certificates and registries by plain HTTP: in
~/.config/sandbox/registries.toml, as `sandbox image pull --help` shows.

a first try:

  sandbox image pull debian:12
  sandbox run --image debian:12 -- cat /etc/os-release
"""

#: the module of each command
COMMANDS = {
    "build": "build",
    "pull": "pull",
    "push": "push",
    "ls": "listing",
    "inspect": "listing",
    "history": "listing",
    "tag": "names",
    "rm": "names",
    "prune": "names",
    "load": "archives",
    "save": "archives",
    "import": "rootfs",
    "export": "rootfs",
    "check": "check",
}
#: what users of docker and podman type
ALIASES = {"list": "ls", "images": "ls", "remove": "rm", "rmi": "rm", "delete": "rm", "untag": "rm"}


def main(arguments: list[str]) -> int:
    word = arguments[0] if arguments else ""
    if word in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if not word:
        raise UsageError("image needs a command", "image")
    command = ALIASES.get(word, word)
    if command not in COMMANDS:
        raise UsageError(f"unknown command {word!r}{nearest(word, [*COMMANDS, *ALIASES])}", "image")
    module = import_module(f"sandbox.cli.image.{COMMANDS[command]}")
    status: int = getattr(module, f"{command.replace('import', 'import_')}")(arguments[1:])
    return status
