"""`python -m sandbox`, and what the supervisor executes, by path, to explain a failed set-up."""

import sys

if not __package__:
    # Executed by path, with -I: this package may be a checkout that nothing else leads to.
    import os

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from sandbox.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
