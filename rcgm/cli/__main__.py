"""`python -m rcgm.cli`, for launchers such as torchrun."""

import sys

from rcgm.cli import main

if __name__ == "__main__":
    sys.exit(main())
