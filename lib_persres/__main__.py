"""`python -m lib_persres …`: the command line; `--help` tells more."""

import sys

from .commands import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        # a console that has no "→" or "×" shows a question mark, and the command goes on
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.exit(main())
