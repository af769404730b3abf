"""`python -m sandbox`."""

import sys

from sandbox.cli.fast import main

if __name__ == "__main__":
    sys.exit(main())
