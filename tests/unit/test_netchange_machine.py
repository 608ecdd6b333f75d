"""Net change over many runs: what sets make of a replica is what the changes, one by one, make of a dict.

The source's rows are a dict; the changes are what PostgreSQL would send of them under the table's replica
identity (old keys only where a key changed, TOAST values only where they did). A replica takes runs of them
as sets or, where a run cannot be netted, one by one. Rows change keys, swap them, are deleted and come back.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.avro import key_decoder, row_decoder
from schemas.change import UNCHANGED, Change, Operation, TextValue
from schemas.netchange import Netting, NotNettable
from schemas.table import Column, ReplicaIdentity, TableSchema
from tests.fix_apply import Rows

Key = tuple[bytes | None, ...]
Row = tuple[bytes | None, ...]

COLUMNS = ("tenant", "name", "id", "body", "extra", "code")
PRIMARY, OTHER = (0, 2), (5,)
TOASTED = (3, 4)

keys = st.tuples(st.sampled_from([b"1", b"11"]), st.sampled_from([b"1", b"2", b"12"]))
names = st.sampled_from([b"a", b"", None])
bodies = st.sampled_from([b"large", b"other large", b"body", None])
codes = st.integers(0, 5).map(lambda number: b"c%d" % number)
rows = st.builds(lambda k, n, b, e, c: (k[0], n, k[1], b, e, c), keys, names, bodies, bodies, codes)


def table_of(identity: ReplicaIdentity) -> TableSchema:
    """DEFAULT sends the primary key, INDEX the other unique column, FULL the whole old row."""
    sent = {ReplicaIdentity.DEFAULT: PRIMARY, ReplicaIdentity.INDEX: OTHER}.get(identity, range(len(COLUMNS)))
    columns = [Column(name, 25, -1, "text", key=i in sent) for i, name in enumerate(COLUMNS)]
    return TableSchema("public", "t", identity, tuple(columns))


def one_by_one(
    replica: dict[Key, Row], table: TableSchema, key: tuple[int, ...], changes: list[Change]
) -> None:
    """The exact path, as plain as can be: each change must touch exactly one row."""
    decode_row, decode_key, sent = row_decoder(table), key_decoder(table), table.key_indexes

    def named(change: Change, new: Row | None) -> Key:
        """The key of the row that is there before."""
        if change.old_row is not None:
            old = decode_row(change.old_row, 0)
            return tuple(old[i] for i in key)
        values = (
            decode_key(change.old_key, 0) if change.old_key is not None else [(new or ())[i] for i in sent]
        )
        (found,) = [at for at, row in replica.items() if [row[i] for i in sent] == values]
        return found

    for change in changes:
        new = None if change.row is None else tuple(decode_row(change.row, 0))
        if change.operation is not Operation.INSERT:
            old = replica.pop(named(change, new))
            if new is not None:
                new = tuple(old[i] if i in change.absent else new[i] for i in range(len(new)))
        if new is not None:
            at = tuple(new[i] for i in key)
            assert at not in replica
            replica[at] = new


def as_sets(replica: dict[Key, Row], netting: Netting, key: tuple[int, ...], changes: list[Change]) -> None:
    """The sets in their order; each names rows that are there, or are not, exactly."""
    net = netting.net(changes)
    for passed in net.passed:
        assert passed not in replica
    for deleted in net.deleted:
        del replica[deleted]
    for absent, updated in net.updated.items():
        for row in updated:
            at = tuple(row[i] for i in key)
            old = replica[at]
            replica[at] = tuple(old[i] if i in absent else row[i] for i in range(len(row)))
    for inserted in net.inserted:
        at = tuple(inserted[i] for i in key)
        assert at not in replica
        replica[at] = tuple(inserted)
    named = [tuple(row[i] for i in key) for rows_ in net.updated.values() for row in rows_]
    named += net.passed + net.deleted
    assert len(set(named)) == len(named)


class Net(RuleBasedStateMachine):
    """A source, the run of changes that is not applied yet, and two replicas."""

    identity = ReplicaIdentity.DEFAULT
    key: tuple[int, ...] = PRIMARY

    @initialize(there=st.lists(rows, max_size=4, unique_by=(lambda r: (r[0], r[2]), lambda r: r[5])))
    def rows_are_there(self, there: list[Row]) -> None:
        self.table = table_of(self.identity)
        self.made = Rows(self.table)
        self.netting = Netting(self.table, self.key)
        self.source: list[Row] = list(there)
        self.replica = {tuple(row[i] for i in self.key): row for row in there}
        self.other = dict(self.replica)
        self.run: list[Change] = []
        self.hopeless = False

    @rule(row=rows)
    def insert(self, row: Row) -> None:
        if self._is_free(row):
            self.source.append(row)
            self.run.append(self.made.insert(*map(_text, row)))

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.source:
            row = self.source.pop(data.draw(st.integers(0, len(self.source) - 1)))
            self.run.append(self.made.delete(*map(_text, row)))
            self.hopeless |= self._comes_by_another_key()

    @rule(data=st.data())
    def delete_and_insert_again(self, data: st.DataObject) -> None:
        if self.source:
            row = data.draw(st.sampled_from(self.source))
            self.source.remove(row)
            self.run.append(self.made.delete(*map(_text, row)))
            self.hopeless |= self._comes_by_another_key()
            self.insert(row)

    @rule(data=st.data(), new=st.lists(st.tuples(names, st.none() | bodies.map(lambda b: (b,))), max_size=3))
    def update(self, data: st.DataObject, new: list[tuple[bytes | None, tuple[bytes | None] | None]]) -> None:
        """One row, again and again. A body of None stays as it is."""
        if self.source:
            at = data.draw(st.integers(0, len(self.source) - 1))
            for name, body in new:
                old = self.source[at]
                self._update(old, (old[0], name, old[2], old[3] if body is None else body[0], *old[4:]))

    @rule(data=st.data(), key=keys, code=codes, fill=st.booleans())
    def give_another_key(
        self, data: st.DataObject, key: tuple[bytes, bytes], code: bytes, fill: bool
    ) -> None:
        """`fill`: its large values come too."""
        if self.source:
            old = data.draw(st.sampled_from(self.source))
            large = (b"filled", b"filled as well") if fill else old[3:5]
            self._update(old, (key[0], old[1], key[1], *large, code))

    @rule(data=st.data())
    def swap_two_keys(self, data: st.DataObject) -> None:
        """Over a third key, as unique keys are checked at once."""
        if len(self.source) > 1:
            one, two = data.draw(st.permutations(self.source))[:2]
            aside = (b"aside", one[1], b"aside", *one[3:5], b"aside")
            self._update(one, aside)
            self._update(two, (one[0], two[1], one[2], *two[3:5], one[5]))
            self._update(aside, (two[0], one[1], two[2], *one[3:5], two[5]))

    def _comes_by_another_key(self) -> bool:
        return self.identity is not ReplicaIdentity.FULL and self.key != self.table.key_indexes

    def _is_free(self, row: Row, instead_of: Row | None = None) -> bool:
        others = [there for there in self.source if there is not instead_of]
        return all((there[0], there[2]) != (row[0], row[2]) and there[5] != row[5] for there in others)

    def _update(self, old: Row, new: Row) -> None:
        if not self._is_free(new, old):
            return
        sent = self.table.key_indexes
        absent = [i for i in TOASTED if new[i] == old[i] and len(new[i] or b"") > 4]
        values: list[str | TextValue] = [
            UNCHANGED if i in absent else _text(value) for i, value in enumerate(new)
        ]
        full = self.identity is ReplicaIdentity.FULL
        moved = [old[i] for i in sent] != [new[i] for i in sent]
        old_texts = list(map(_text, old))
        change = self.made.update(
            *values, key=old_texts if moved and not full else None, old=old_texts if full else None
        )
        self.run.append(change)
        self.source[self.source.index(old)] = new
        self.hopeless |= self._comes_by_another_key()
        self.hopeless |= bool(absent) and [old[i] for i in self.key] != [new[i] for i in self.key]

    @rule()
    def the_run_is_applied(self) -> None:
        """A run that is refused leaves everything to the exact path; only one that lost sight may be."""
        before = dict(self.replica)
        try:
            as_sets(self.replica, self.netting, self.key, self.run)
        except NotNettable:
            assert self.hopeless
            self.replica = before
            one_by_one(self.replica, self.table, self.key, self.run)
        one_by_one(self.other, self.table, self.key, self.run)
        self.run = []
        self.hopeless = False

    @invariant()
    def replicas_hold_what_the_source_holds(self) -> None:
        if not self.run:
            assert self.replica == self.other == {tuple(row[i] for i in self.key): row for row in self.source}

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.the_run_is_applied()
            self.replicas_hold_what_the_source_holds()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


class NetOfFull(Net):
    """The whole old row comes; rows are named by the replica's own key."""

    identity = ReplicaIdentity.FULL


class NetOfAnotherKey(Net):
    """Old rows come by another key than the replica's."""

    identity = ReplicaIdentity.INDEX


class NetOfIndex(Net):
    """The identity's index is the replica's key, too."""

    identity = ReplicaIdentity.INDEX
    key = OTHER


TestNet, TestNetOfFull = Net.TestCase, NetOfFull.TestCase
TestNetOfAnotherKey, TestNetOfIndex = NetOfAnotherKey.TestCase, NetOfIndex.TestCase
