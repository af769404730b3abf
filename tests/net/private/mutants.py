"""Defences of private networks taken away one at a time: see tests/security/mutants.py."""

from __future__ import annotations

from tests.security.mutants import Mutant, one

__all__ = ["MUTANTS"]

ATTACKS = "tests/net/private/test_attacks.py"
MEMBERS = "tests/net/private/test_members.py"
ROUTER = "sandbox/net/private/router.py"

MUTANTS: list[Mutant] = [
    one(
        "members use their own IPv4 address",
        ROUTER,
        "ether type ip iifname . ether saddr . ip saddr @own4 accept",
        "ether type ip accept",
        ATTACKS,
        "nobody_is_another",
    ),
    one(
        "members use their own IPv6 address",
        ROUTER,
        "iifname . ether saddr . ip6 saddr @own6 accept",
        "accept",
        ATTACKS,
        "nobody_is_another",
    ),
    one(
        "members say nothing of others by ARP",
        ROUTER,
        "ether type arp iifname . ether saddr . arp saddr ip != @own4 drop",
        "ether type arp accept",
        ATTACKS,
        "nobody_is_another",
    ),
    one(
        "members say nothing of others by neighbour advertisements",
        ROUTER,
        "icmpv6 type nd-neighbor-advert jump adverts",
        "icmpv6 type nd-neighbor-advert accept",
        ATTACKS,
        "nobody_is_another",
    ),
    one(
        "members are no routers",
        ROUTER,
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        "icmpv6 type { nd-router-advert, nd-redirect } accept",
        ATTACKS,
        "nobody_is_another",
    ),
    one(
        "a network that is gone has no members",
        "helpers/network_ready.c",
        "    close_fd(network_lease(s, record, 0)); /* it",
        "    /* it",
        MEMBERS,
        "of_a_network_that_is_killed and supervisor",
    ),
    one(
        "a network without its way out is none",
        ROUTER,
        "        flags = ServiceFlag.RIGHTS | ServiceFlag.NEEDED\n",
        "        flags = ServiceFlag.RIGHTS\n",
        "tests/net/private/test_out.py",
        "backend_is_killed and slirp4netns",
    ),
    one(
        "no name leads a policy to a member's place",
        "sandbox/egress/names.py",
        "if self._world.around.usable(address)]",
        "]",
        "tests/egress/test_around.py",
        "anywhere_else",
    ),
    one(
        "a project takes nobody's name",
        "sandbox/plan/compile.py",
        "    if named.hostile:\n",
        "    if False:\n",
        ATTACKS,
        "call_itself_another",
    ),
    one(
        "what could be a member's name is asked for nowhere else",
        "sandbox/egress/members.py",
        "labels[-len(self._labels) :] == self._labels",
        "b'.'.join(labels).decode('latin-1').isalnum()",
        "tests/net/private/test_out.py",
        "nowhere_else and slirp4netns",
    ),
    one(
        "nobody is localhost",
        "sandbox/egress/members.py",
        '        if name == "localhost":\n',
        "        if not name:\n",
        "tests/net/private/test_out.py",
        "nowhere_else and slirp4netns",
    ),
    one(
        "an address has no scope, which may be any text",
        "sandbox/profile/checks.py",
        '        if "%" in text:\n            raise ValueError\n        ipaddress',
        "        ipaddress",
        "tests/profile/test_build.py",
        "accept",
    ),
]
