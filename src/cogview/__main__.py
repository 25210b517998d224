"""``python -m cogview``: the command line where ``cogview`` is not on the path."""

import sys

from cogview.cli.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
