"""Defences of the egress policy taken away one at a time: see tests/security/mutants.py."""

from __future__ import annotations

from tests.security.mutants import Mutant, one

__all__ = ["MUTANTS"]

WHERE = "tests/egress/test_kernel.py"
PROXY = "tests/egress/test_proxy.py"

MUTANTS: list[Mutant] = [
    one(
        "names that are not allowed are not asked for",
        "sandbox/egress/names.py",
        "return bool(name) and self._world.policy.resolves(name) and self._world.counts(name)",
        "return bool(name) and self._world.counts(name)",
        WHERE,
        "nothing_gets_out",
    ),
    one(
        "names below a star are counted",
        "sandbox/egress/world.py",
        "if name not in self._below and len(self._below) >= _MAX_BELOW:",
        "if False:",
        WHERE,
        "not_endless",
    ),
    one(
        "they are counted by the proxy, too",
        "sandbox/egress/relay.py",
        "        good = good and (not isinstance(target, str) or self._world.counts(target))\n",
        "",
        PROXY,
        "not_endless",
    ),
    one(
        "what can't be seen of the kernel's refusals is told",
        "sandbox/egress/service.py",
        "    except OSError as error:  # the kernel did not answer in time, or not to us\n",
        "    except ZeroDivisionError as error:\n",
        "tests/egress/test_world.py",
        "does_not_answer",
    ),
    one(
        "answers to private addresses are refused",
        "sandbox/egress/names.py",
        "usable = [address for address in found.addresses if self._world.usable(address)]",
        "usable = list(found.addresses)",
        WHERE,
        "rebinding",
    ),
    one(
        "the proxy, too, refuses private addresses",
        "sandbox/egress/relay.py",
        "usable = [each for each in found if self._world.usable(each)]",
        "usable = found",
        PROXY,
        "private_addresses",
    ),
    one(
        "the host's own addresses are found out",
        "sandbox/egress/routes.py",
        "return kind == _NEWROUTE and data[16 + 7] == _UNICAST",
        "return True",
        "tests/egress/test_run.py",
        "test_proxy",
    ),
    one(
        "addresses are closed until the name was asked for",
        "sandbox/net/rules.py",
        '        yield _ACCEPT if open_ else "goto refuse"',
        "        yield _ACCEPT",
        WHERE,
        "hard_coded",
    ),
    one(
        "the name in TLS must be allowed",
        "sandbox/egress/relay.py",
        "good = policy.may_name(target, port) if isinstance(target, str) else self._granted(target, port)",
        "good = True",
        WHERE,
        "name_decides",
    ),
    one(
        "TLS without a name is refused",
        "sandbox/egress/relay.py",
        "        if not isinstance(target, str) and not self._granted(target, port):",
        "        if False:",
        WHERE,
        "name_decides",
    ),
    one(
        "a tunnel leads to the name that it was asked for",
        "sandbox/egress/relay.py",
        "if isinstance(where, str) and target != where:",
        "if False:",
        PROXY,
        "test_connect",
    ),
    one(
        "no second request is passed on",
        "sandbox/egress/relay.py",
        "            size = min(left, len(data))\n            left -= size\n            done = left == 0\n",
        "            size = len(data)\n            done = False\n",
        WHERE,
        "second_request",
    ),
    one(
        "two hosts in one request are refused",
        "sandbox/egress/http.py",
        '    if len(named) > 1:\n        raise BadRequest("more than one Host")\n',
        "",
        WHERE,
        "not_passed_on",
    ),
    one(
        "QUIC must be allowed as such",
        "sandbox/egress/world.py",
        'return ("udp",) if way.protocol == "udp" else ()',
        'return ("udp",) if way.port else ()',
        WHERE,
        "quic",
    ),
    one(
        "deny wins",
        "sandbox/destination.py",
        "        if any(each.names(name) and each.takes(port, protocol) for each in self.deny):\n"
        "            return False\n",
        "",
        "tests/test_destination.py",
        "deny_wins",
    ),
    one(
        "connections are counted",
        "sandbox/egress/relay.py",
        "if self._count >= _MAX_CONNECTIONS:",
        "if self._count < 0:",
        "tests/egress/test_relay.py",
        "so_many",
    ),
    one(
        "connections at which nothing moves end",
        "sandbox/egress/relay.py",
        "            task.cancel()\n            return\n",
        "            return\n",
        "tests/egress/test_relay.py",
        "nothing_moves",
    ),
    one(
        "answers belong to their question",
        "sandbox/egress/dns.py",
        "if _text(labels) != name or asked != (kind, IN):",
        "if asked != (kind, IN):",
        "tests/egress/test_dns.py",
        "no_answer_to_it",
    ),
]
