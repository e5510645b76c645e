"""python3 -m gearmand: see `cli`."""

import sys

from gearmand.cli import main

if __name__ == "__main__":
    sys.exit(main())
