"""`python -m pipeline.cli`: the same as `keepstream`, but that SIGTERM is minded only once this is loaded."""

import sys

from pipeline.cli import main
from pipeline.cli.streams import set_up_streams

if __name__ == "__main__":
    set_up_streams()
    sys.exit(main())
