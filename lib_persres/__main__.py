"""`python -m lib_persres …`: the command line; `--help` tells more."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
