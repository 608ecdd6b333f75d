"""The first copy of a source into a replica (P17-P20): schema, rows, indexes, then a position.

`copy_replica` is the whole verb; the other modules are its steps.
"""

from pipeline.copy.options import CopyOptions
from pipeline.copy.progress import CopyPhase, CopyProgress, TableProgress
from pipeline.copy.replica import copy_replica

__all__ = ["CopyOptions", "CopyPhase", "CopyProgress", "TableProgress", "copy_replica"]
