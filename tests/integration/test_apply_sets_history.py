"""Random histories of many kinds of tables: both paths (P15) make of them on a replica what the source has.

A *calm* history has nothing that sets cannot express: all of it must go as sets where the table fits. In a
*wild* one rows exchange unique values, and get other keys while a large value does not come.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from connectors.postgres.apply import set_plans
from connectors.postgres.apply.set_plans import SetPlan, SetRows
from connectors.postgres.apply.writer import ReplicaWriter
from pipeline.apply import paths, slices
from pipeline.apply.backlog import Whole
from pipeline.apply.counters import Counters
from pipeline.apply.grouping import Limits
from schemas.change import UNCHANGED, Change, Unchanged
from schemas.table import ReplicaIdentity, TableSchema
from tests.fix_apply import Rows, Taken, rows_of
from tests.fix_postgres import Database

COLUMNS = ["id", "mail", "body", "shop"]
NUMBERS = 12
_CONTENT = "select id::text, mail, body, shop::text from public.{} t order by t.id"


@dataclass(frozen=True)
class Kind:
    """A table of the replica. `more`: SQL behind its columns, `{0}` being its name. `fits`: sets are provably
    equal there."""

    columns: str
    more: str = ""
    fits: bool = True
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT


PLAIN = "id int primary key, mail text unique, body text, shop int"
KINDS = {
    "plain": Kind(PLAIN),
    "two_columns": Kind("id int, mail text unique, body text, shop int, primary key (shop, id)"),
    "parted": Kind(
        "id int, mail text, body text, shop int, primary key (shop, id), unique (shop, mail)",
        "partition by list (shop);"
        " create table {0}_0 partition of {0} for values in (0);"
        " create table {0}_1 partition of {0} for values in (1)",
    ),
    "computed": Kind(f"{PLAIN}, length int generated always as (length(body)) stored"),
    "numbered": Kind(
        "id int generated always as identity primary key, mail text unique, body text, shop int"
    ),
    "whole_rows": Kind(PLAIN, identity=ReplicaIdentity.FULL),
    "not_firing": Kind(
        f"{PLAIN} references public.shops",
        "; create trigger refuse before insert or update or delete on {0} for each row execute function"
        " public.refuse()",
    ),
    "extra": Kind(f"{PLAIN}, extra int", fits=False),
    "deferrable": Kind(f"{PLAIN}, unique (mail) deferrable", fits=False),
    "always": Kind(f"{PLAIN} generated always as identity", fits=False),
    "keyless": Kind("id int, mail text, body text, shop int", fits=False, identity=ReplicaIdentity.FULL),
}
NEITHER_HELD_NOR_FIRED = """
    create table public.shops (shop int primary key);
    create function public.refuse() returns trigger language plpgsql as 'begin return null; end'
"""


class RandomHistory:
    """Changes that a source could have committed, over a table with a unique column and a large one."""

    def __init__(self, rows: Rows, chance: random.Random, *, wild: bool) -> None:
        self._rows = rows
        self._chance = chance
        self._wild = wild
        self._mails = 0
        self._there: dict[int, list[str | None]] = {}

    @property
    def table(self) -> TableSchema:
        return self._rows.table

    @property
    def content(self) -> list[tuple[str | None, ...]]:
        """What the source has in the end."""
        return [tuple(self._there[number]) for number in sorted(self._there)]

    def step(self) -> list[Change]:
        chance, there = self._chance, self._there
        number, other = chance.sample(range(1, NUMBERS + 1), 2)
        if number not in there:
            there[number] = [str(number), self._mail(), chance.choice(["x", "y\t", None]), str(number % 2)]
            return [self._rows.insert(*there[number])]
        kind = chance.random()
        if kind < 0.2:
            return [self._rows.delete(*there.pop(number))]
        if kind < 0.4 and other not in there:
            body = self._body(known=not self._wild)
            return [self._update(number, to=other, mail=there[number][1], body=body)]
        if 0.4 <= kind < 0.42 and other in there and self._wild:
            return self._hand_over(number, other)
        mail = self._mail() if kind < 0.7 else there[number][1]
        return [self._update(number, mail=mail, body=self._body())]

    def _hand_over(self, one: int, other: int) -> list[Change]:
        """Two rows exchange a unique value."""
        mail, others = self._there[one][1], self._there[other][1]
        given = [(one, None), (other, mail), (one, others)]
        return [self._update(number, mail=value, body=UNCHANGED) for number, value in given]

    def _update(
        self, number: int, *, mail: str | None, body: str | Unchanged | None, to: int | None = None
    ) -> Change:
        old, to = self._there.pop(number), to or number
        new = self._there[to] = [str(to), mail, old[2] if isinstance(body, Unchanged) else body, str(to % 2)]
        if self.table.replica_identity is ReplicaIdentity.FULL:
            return self._rows.update(*new, old=old)
        return self._rows.update(new[0], new[1], body, new[3], key=old if to != number else None)

    def _body(self, *, known: bool = False) -> str | Unchanged | None:
        values = ["p", "q", None]
        return self._chance.choice(values if known else [*values, UNCHANGED, UNCHANGED])

    def _mail(self) -> str | None:
        """One that no row ever had."""
        self._mails += 1
        return self._chance.choice([None, f"m{self._mails}", f"m{self._mails}"])


class Source:
    """One history a table, and transactions that mix them."""

    def __init__(self, replica: Database, taken: Taken, *, seed: int, wild: bool) -> None:
        self._log = taken.made_log
        self._chance = random.Random(seed)
        self.changes: Counter[str] = Counter()
        self.histories: dict[str, RandomHistory] = {}
        replica.execute(NEITHER_HELD_NOR_FIRED)
        for name, kind in KINDS.items():
            table = f"public.{name}"
            replica.execute(f"create table {table} ({kind.columns}) {kind.more.format(table)}")
            rows = rows_of(replica, table, columns=COLUMNS, identity=kind.identity)
            self.histories[name] = RandomHistory(rows, self._chance, wild=wild)
        self._tables = [history.table for history in self.histories.values()]

    def commit(self, transactions: int) -> None:
        """Most share a frame, some take one a change."""
        log = self._log
        for number in range(transactions):
            changes = [change for _ in range(self._chance.randint(1, 20)) for change in self._step()]
            if number % 40 == 10:
                log.flush()
                log.close_parts(log.open_parts(*changes, tables=self._tables))
            else:
                log.add(*changes, tables=self._tables)
        log.flush()

    def _step(self) -> list[Change]:
        name = self._chance.choice(list(self.histories))
        changes = self.histories[name].step()
        self.changes[name] += len(changes)
        return changes


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The tables of which sets were written, refused ones too."""
    names: set[str] = set()
    write_set = ReplicaWriter.write_set

    def noted(self: ReplicaWriter, plan: SetPlan, rows: SetRows) -> None:
        names.add(plan.target.name)
        write_set(self, plan, rows)

    monkeypatch.setattr(ReplicaWriter, "write_set", noted)
    return names


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many transactions had been made ready, of each group."""
    counts: list[int] = []
    take_ready = paths.Paths._take_ready

    def noted(self: paths.Paths, transactions: Sequence[Whole]) -> int:
        counts.append(take_ready(self, transactions))
        return counts[-1]

    monkeypatch.setattr(paths.Paths, "_take_ready", noted)
    return counts


@pytest.fixture(params=["compiled", "python"])
def _coding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(set_plans, "encode_apart", None)
        monkeypatch.setattr(slices, "split_by_table", None)


@pytest.mark.usefixtures("_coding")
@pytest.mark.parametrize("wild", [False, True], ids=["calm", "wild"])
@pytest.mark.parametrize(("group", "slice_changes"), [(40, 20), (2_000, 150)])
def test_both_paths_make_of_a_random_history_what_the_source_has(
    replica: Database,
    taken: Taken,
    tried: set[str],
    ready: list[int],
    monkeypatch: pytest.MonkeyPatch,
    group: int,
    slice_changes: int,
    wild: bool,
) -> None:
    """Of several groups, the next one is made ready while one is written."""
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 1)
    monkeypatch.setattr(paths, "_PATIENCE_SLICES", 0)
    monkeypatch.setattr(slices, "SLICE_CHANGES", slice_changes)
    monkeypatch.setattr(Counters, "limits", lambda _: Limits(changes=group))
    source = Source(replica, taken, seed=group + wild, wild=wild)
    source.commit(80)
    taken.catch_up()
    found = {name: replica.execute(_CONTENT.format(name)) for name in KINDS}
    assert found == {name: history.content for name, history in source.histories.items()}
    fitting = {name for name, kind in KINDS.items() if kind.fits}
    assert tried == fitting
    assert taken.sets + taken.singles == source.changes.total()
    could = sum(source.changes[name] for name in fitting)
    if wild:
        assert could / 2 < taken.sets < could
        assert taken.refused > 0
    else:
        assert (taken.sets, taken.refused) == (could, 0)
    assert group == 2_000 or any(ready)
