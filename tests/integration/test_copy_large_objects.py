"""Large objects of a first copy: their OIDs, content and owners, in its snapshot, and nobody's else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.postgres.large_objects import reading
from connectors.postgres.large_objects.reading import digest_of, list_large_objects
from connectors.postgres.session import connect
from pipeline.config import Initial
from pipeline.copy import large_objects
from schemas.errors import OperatorNeeded
from tests.copying import copy
from tests.fix_postgres import Database
from tests.integration.test_copy_kills import run_killed_at

EMPTY, SHORT, LONG, SPARSE, LAST = 70_001, 70_002, 70_003, 70_004, 4_294_967_290
MADE = f"""
    create table letter (id int primary key, content oid);
    select lo_create({EMPTY}), lo_from_bytea({SHORT}, 'short'), lo_create({SPARSE}),
           lo_from_bytea({LONG}, decode(repeat('00ff41', 400000), 'hex')), lo_from_bytea({LAST}, 'last');
    select lo_put({SPARSE}, 5000000, 'far'), lo_put({SPARSE}, 3000, 'near');
    insert into letter values (1, {LONG})
"""


@pytest.fixture
def without_read_all(source: Database) -> Iterator[None]:
    source.execute_as_admin("revoke pg_read_all_data from keepstream")
    yield
    source.execute_as_admin("grant pg_read_all_data to keepstream")


def digests(database: Database) -> dict[int, tuple[str, bytes]]:
    """(owner, digest) of each, read as the superuser."""
    with connect(database.admin_dsn, purpose="test") as session, session.transaction():
        found = [each for some in list_large_objects(session) for each in some]
        return {each.oid: (each.owner, digest_of(session, each.oid)) for each in found}


def test_they_arrive_under_their_oids_with_holes_and_owners_where_the_role_is_there(
    source: Database, replica: Database
) -> None:
    source.execute(MADE)
    source.execute_as_admin(f"alter large object {SHORT} owner to keepstream")
    theirs = digests(source)
    _, told = copy(source, replica)
    ours = digests(replica)
    assert {oid: digest for oid, (_, digest) in ours.items()} == {
        oid: digest for oid, (_, digest) in theirs.items()
    }
    assert ours[SHORT][0] == "keepstream"
    assert f"owner {source.owner} of 4 large objects: they are our role's there" in told[-1].left_out
    pages = f"select count(*) from pg_largeobject where loid = {SPARSE}"
    assert replica.execute_as_admin(pages) == source.execute_as_admin(pages), "holes stay holes"


def test_they_are_given_to_a_role_of_their_owners_name(source: Database, replica: Database) -> None:
    source.execute(MADE)
    replica.execute_as_admin(f"create role {source.owner}; grant {source.owner} to keepstream")
    try:
        copy(source, replica)
        assert {owner for owner, _ in digests(replica).values()} == {source.owner}
    finally:
        replica.execute_as_admin(f"drop owned by {source.owner}; drop role {source.owner}")


@pytest.mark.usefixtures("without_read_all")
def test_those_that_the_role_may_not_read_are_left_out_and_named(source: Database, replica: Database) -> None:
    source.execute(MADE)
    source.execute("grant select on letter to keepstream")
    source.execute(f"grant select on large object {LONG}, {SPARSE} to keepstream")
    _, told = copy(source, replica)
    theirs, ours = digests(source), digests(replica)
    assert {oid: digest for oid, (_, digest) in ours.items()} == {
        oid: theirs[oid][1] for oid in (LONG, SPARSE)
    }
    left_out = f"large objects that the source role may not read: {EMPTY}, {SHORT}, {LAST}"
    assert left_out in told[-1].left_out


def test_what_happens_to_them_meanwhile_does_not_show(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(MADE)
    theirs = digests(source)
    real = large_objects.copy_large_objects

    def meddling(*given: object) -> None:
        source.execute(f"select lo_unlink({LONG}), lo_put({SHORT}, 0, 'other'), lo_create(70009)")
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("pipeline.copy.replica.copy_large_objects", meddling)
    copy(source, replica)
    assert {oid: digest for oid, (_, digest) in digests(replica).items()} == {
        oid: digest for oid, (_, digest) in theirs.items()
    }


@pytest.mark.parametrize("initial", [Initial.COPY, Initial.DATA])
def test_a_killed_copy_takes_them_away_and_brings_them_anew(
    source: Database, replica: Database, tmp_path: Path, initial: Initial
) -> None:
    source.execute(MADE)
    if initial is Initial.DATA:
        replica.execute("create table letter (id int primary key, content oid)")
    run_killed_at("copy.data_copied", tmp_path / "kills", source, replica, initial=initial)
    assert len(digests(replica)) == 5
    source.execute(f"select lo_unlink({SHORT})")
    copy(source, replica, initial=initial)
    assert digests(replica).keys() == {EMPTY, LONG, SPARSE, LAST}


def test_a_replica_with_large_objects_of_its_own_is_refused(source: Database, replica: Database) -> None:
    source.execute(MADE)
    replica.execute("select lo_create(0)")
    with pytest.raises(OperatorNeeded, match="the replica has 1 large objects, and the source has some, too"):
        copy(source, replica)
    source.execute("select lo_unlink(oid) from pg_largeobject_metadata")
    copy(source, replica)
    assert len(digests(replica)) == 1


def test_more_than_one_transaction_takes_are_copied(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(
        "select lo_from_bytea(80000 + i, convert_to(i::text, 'UTF8')) from generate_series(1, 1203) i"
    )
    monkeypatch.setattr(reading, "PIECE_BYTES", 4096)
    copy(source, replica)
    assert replica.execute(
        "select count(*), convert_from(lo_get(81203), 'UTF8') from pg_largeobject_metadata"
    ) == [(1203, "1203")]
