"""Private networks: sandboxes that reach one another by name, and those of no other network.

`store` is what the user made (`sandbox network create`), a file each. The rest is there as long as somebody
is on the network: a supervisor of its own, with a user and a network namespace in which there is a bridge;
`router` is the plan of that. Each member has a device on the bridge; `member` is what its plan has of it. Who
starts the one and gets the other onto it is `sandbox.launch.private`; who gives out addresses and answers
names is `sandbox.egress.members`.
"""

from __future__ import annotations
