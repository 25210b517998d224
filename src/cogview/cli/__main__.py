"""``python -m cogview.cli``: the command line for launchers of Python modules, such as torchrun."""

import sys

from cogview.cli.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
