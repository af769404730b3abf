"""`sandbox network create|ls|inspect|rm`: private networks (`sandbox.net.private`)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

from sandbox.cli.common import OURS, Parser, UsageError, nearest, print_error
from sandbox.errors import SandboxError, SetupError
from sandbox.launch import private
from sandbox.net.private import store
from sandbox.net.private.store import PrivateNetwork

__all__ = ["main"]

_USAGE = """\
usage: sandbox network create|ls|inspect|rm [options]

Private networks: sandboxes that are started with `--net NAME` (or net.mode = "NAME" in their profile) reach
one another by name, and nobody on another network. Each is there from its first sandbox to its last.

  sandbox network create NAME             --internal: with no way out
  sandbox run --net NAME --hostname db -- ...
  sandbox network ls                      those that there are
  sandbox network inspect NAME            its addresses, and who is on it
  sandbox network rm NAME                 --force: with sandboxes on it
"""


def main(arguments: list[str]) -> int:
    verbs = {"create": _create, "ls": _ls, "list": _ls, "inspect": _inspect, "rm": _rm, "remove": _rm}
    word = arguments[0] if arguments else ""
    if word in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if word not in verbs:
        known = f"unknown command {word!r}{nearest(word, verbs)}"
        raise UsageError(known if word else "network needs a command: create, ls, inspect, rm", "network")
    return verbs[word](arguments[1:])


def _create(arguments: list[str]) -> int:
    parser = Parser("network create", "[options] NAME", "Make a private network. Prints its name.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--internal", action="store_true", help="with no way out")
    parser.add_argument(
        "--subnet",
        action="append",
        default=[],
        metavar="NETWORK",
        help="its addresses: IPv4/24 or IPv6/64 (twice for both); chosen where not given",
    )
    parser.add_argument(
        "--backend", choices=("auto", "pasta", "slirp4netns"), default="auto", help="who connects it"
    )
    parser.add_argument(
        "--dns",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a name server that it asks, in place of the host's",
    )
    options = parser.parse(arguments)
    if options.internal and (options.dns or options.backend != "auto"):
        raise UsageError("--dns and --backend have no use with --internal", "network create")
    subnets = {":" in each: each for each in options.subnet}
    if len(subnets) < len(options.subnet):
        raise UsageError("--subnet takes one network of IPv4, and one of IPv6", "network create")
    asked = PrivateNetwork(
        options.name,
        subnets.get(False, ""),
        subnets.get(True, ""),
        options.internal,
        backend=options.backend,
        dns=tuple(map(_address, options.dns)),
    )
    print(store.create(asked).name)
    return 0


def _address(text: str) -> str:
    from ipaddress import ip_address

    try:
        if "%" in text:
            raise ValueError  # a scope means nothing inside
        found = ip_address(text)
    except ValueError:
        raise UsageError(f"--dns {text!r} is no IP address", "network create") from None
    if found.is_loopback or found.is_unspecified:
        raise UsageError(f"--dns {text} would be the network itself", "network create")
    return str(found)


def _ls(arguments: list[str]) -> int:
    parser = Parser("network ls", "[options]", "The private networks that there are.")
    parser.add_argument("-q", "--quiet", action="store_true", help="only names")
    parser.add_argument("--json", action="store_true", help="what inspect tells of each, as JSON")
    options = parser.parse(arguments)
    networks = store.listed()
    if options.quiet:
        print("".join(f"{each.name}\n" for each in networks), end="")
        return 0
    described = [_described(each) for each in networks]
    if options.json:
        print(json.dumps(described, indent=2))
        return 0
    rows = [("NAME", "SUBNETS", "WAY OUT", "SANDBOXES")]
    for each in described:
        out = "no" if each["internal"] else "yes"
        rows.append((each["name"], " ".join(each["subnets"]), out, str(len(each["members"]))))
    _table(rows)
    return 0


def _inspect(arguments: list[str]) -> int:
    parser = Parser("network inspect", "[options] NAME...", "The addresses of networks, and who is on them.")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="the same as JSON: a list")
    options = parser.parse(arguments)
    described = [_described(store.look(name)) for name in options.names]
    if options.json:
        print(json.dumps(described, indent=2))
        return 0
    for each in described:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(each["created"]))
        print(f"{each['name']}: {' '.join(each['subnets'])}")
        print(f"  created {created}; " + ("no way out" if each["internal"] else "with a way out"))
        print(f"  gateway and name server {' '.join(each['gateway'])}")
        _table([("", *(each["addresses"]), " ".join(each["names"])) for each in each["members"]])
    return 0


def _described(network: PrivateNetwork) -> dict[str, Any]:
    """A network as `inspect --json` tells it."""
    members = []
    with contextlib.suppress(SetupError):  # removed meanwhile, or its supervisor does not answer
        members = [
            {"names": each["names"], "addresses": network.addresses(int(each["number"]))}
            for each in private.members(network.name)
        ]
    return {
        "name": network.name,
        "subnets": network.subnets,
        "gateway": network.addresses(1),
        "internal": network.internal,
        "backend": network.backend,
        "dns": network.dns,
        "created": network.created,
        "members": members,
    }


def _rm(arguments: list[str]) -> int:
    parser = Parser("network rm", "[options] NAME...", "Remove private networks.")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="with sandboxes on it, which lose it; one that is not there, too",
    )
    options = parser.parse(arguments)
    failed = False
    for name in options.names:
        try:
            if private.remove(name, force=options.force):
                print(name)
        except SandboxError as error:
            print_error(error)
            failed = True
    return OURS if failed else 0


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
