"""`python -m cluster COMMAND ...` does what `emostream COMMAND ...` does.

`ray job submit` starts commands this way.
"""

import sys

from cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
