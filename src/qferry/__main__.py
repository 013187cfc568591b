"""`python -m qferry`: the same as the `qferry` command."""

import sys

from qferry.cli import main

if __name__ == "__main__":
    sys.exit(main())
