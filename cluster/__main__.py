"""`python -m cluster COMMAND ...`: the same function as the `emostream` command, for `ray job
submit`.
"""

import sys

from cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
