"""`python -m pipeline.cli`: the same as `keepstream`, and how `run` starts its children."""

import sys

from pipeline.cli import main
from pipeline.cli.streams import set_up_streams
from pipeline.supervisor import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    set_up_streams()
    sys.exit(main())
