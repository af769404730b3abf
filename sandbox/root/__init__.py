"""What a root file system is made of: tables of host paths, and the generated files in /etc.

Data and text only. How they become operations is `sandbox.plan`'s business; this package
makes no system calls and knows nothing of plans.
"""

from __future__ import annotations
