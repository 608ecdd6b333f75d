"""What went through the log, counted from `keepstream events tail`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OPERATIONS = ("insert", "update", "delete", "truncate")


@dataclass
class Tally:
    """Transactions that changed rows, and changes by table and operation."""

    transactions: int = 0
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    unsent_values: int = 0

    @classmethod
    def of(cls, events: Iterable[Any]) -> Tally:
        """`events` come in commit order, so that a transaction's stand together."""
        tally, last = cls(), None
        for event in events:
            if event["op"] not in OPERATIONS:
                continue
            tally.changes[f"{event['schema']}.{event['name']}", event["op"]] += 1
            tally.unsent_values += len(event.get("absent") or ())
            tally.transactions += event["commit_lsn"] != last
            last = event["commit_lsn"]
        return tally

    def busiest(self, count: int) -> list[str]:
        """The tables with the most changes."""
        tables: Counter[str] = Counter()
        for (table, _), changes in self.changes.items():
            tables[table] += changes
        return [table for table, _ in tables.most_common(count)]
