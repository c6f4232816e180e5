"""`python -m lib_persres …`: the command line; `--help` tells more."""

import sys


def run() -> int:
    try:
        from .commands import main  # here, so that Ctrl-C ends this in a line, too
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
