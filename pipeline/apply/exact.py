"""The exact path (DESIGN §4): every change as one statement, in source order.

A path takes a planned group into one target transaction. This one is always right; another may be
chosen for a group without a barrier where it is provably equal to this one (P15).
"""

from __future__ import annotations

from connectors.postgres.apply_errors import SourceRef
from connectors.postgres.writer import ReplicaWriter
from pipeline.apply.grouping import Group
from schemas.lsn import Lsn


def apply_group(writer: ReplicaWriter, group: Group, *, old: Lsn, hint: str) -> None:
    """Commit the group. After an error nothing of it is committed, and `writer.rollback` comes next."""
    writer.begin(old, group.position, place=hint)
    for loaded in group.transactions:
        source = SourceRef(loaded.transaction.xid, loaded.transaction.commit_lsn)
        writer.apply(source, loaded.changes)
    writer.commit()
