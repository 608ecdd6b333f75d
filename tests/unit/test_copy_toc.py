"""Choosing from a dump's table of contents, and reading what pg_restore says."""

from __future__ import annotations

from connectors.postgres.catalog.foreignkeys import ForeignKey
from connectors.postgres.catalog.source_schema import SourceSchema
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from pipeline.copy.choice import choose_schema
from pipeline.copy.toc import TocEntry, choose, parse_toc, progress_of, restore_errors

LISTING = """;
; Archive created at 2026-11-22 22:43:34 UTC
;     TOC Entries: 27
;
; Selected TOC Entries:
;
2700; 0 0 COMMENT - SCHEMA public pg_database_owner
7; 2615 16415 SCHEMA - we ird postgres
2; 3079 16427 EXTENSION - citext 
2701; 0 0 COMMENT - EXTENSION citext 
221; 1259 16403 TABLE public big postgres
230; 1259 16600 FOREIGN TABLE public far postgres
227; 1259 16557 VIEW public v postgres
2538; 2606 16554 CONSTRAINT public part part_pkey postgres
2542; 2606 16422 FK CONSTRAINT we ird t"1 t"1_p_fkey postgres
2532; 3466 16541 EVENT TRIGGER - et postgres
2534; 3466 16542 EVENT TRIGGER - keepstream_ddl postgres
2533; 0 0 TABLE ATTACH public part1 postgres
"""  # noqa: W291 - an extension has no owner


def chosen(
    *,
    existing: dict[int, str] | None = None,
    unavailable: frozenset[int] = frozenset(),
    omitted: frozenset[tuple[int, int]] = frozenset(),
) -> tuple[list[int], tuple[str, ...]]:
    choice = choose(
        parse_toc(LISTING),
        existing_schemas=frozenset(existing or {}),
        existing_schema_names=frozenset((existing or {}).values()),
        unavailable=unavailable,
        omitted=omitted,
    )
    return [entry.dump_id for entry in choice.kept], choice.left_out


def test_every_entry_of_a_listing_is_read_and_written_back_alike() -> None:
    entries = parse_toc(LISTING)

    assert entries[1] == TocEntry(7, 2615, 16415, "SCHEMA - we ird postgres")
    assert [entry.line for entry in entries] == [line for line in LISTING.splitlines() if line[0] != ";"]


def test_what_acts_on_servers_is_left_out_and_told_but_for_our_own() -> None:
    kept, left_out = chosen()

    assert kept == [2700, 7, 2, 221, 227, 2538, 2542, 2533]
    assert left_out == ("FOREIGN TABLE public far postgres", "EVENT TRIGGER - et postgres")


def test_schemas_that_are_there_already_and_their_comments_are_left_out() -> None:
    kept, _ = chosen(existing={2200: "public", 16415: "we ird"})

    assert kept == [2, 221, 227, 2538, 2542, 2533]


def test_foreign_keys_and_views_are_left_out_by_their_oid() -> None:
    kept, left_out = chosen(unavailable=frozenset({16557}), omitted=frozenset({(2606, 16422), (1, 16403)}))

    assert kept == [2700, 7, 2, 221, 2538, 2533]
    assert "VIEW public v postgres" in left_out


def test_pg_restore_tells_what_it_has_made() -> None:
    made = 'pg_restore: creating INDEX "public.a"'
    finished = "pg_restore: finished item 2542 FK CONSTRAINT a b"

    assert progress_of(made, parallel=False) == 'INDEX "public.a"'
    assert progress_of(finished, parallel=True) == "FK CONSTRAINT a b"
    assert progress_of(made, parallel=True) is None
    assert progress_of("pg_restore: connecting to database", parallel=False) is None


def test_errors_of_pg_restore_are_told_with_their_object() -> None:
    said = [
        "pg_restore: while PROCESSING TOC:",
        "pg_restore: from TOC entry 221; 1259 16403 TABLE big postgres",
        'pg_restore: error: could not execute query: ERROR:  relation "big" already exists',
        "Command was: CREATE TABLE public.big (",
        "    id integer",
    ]

    assert [str(error) for error in restore_errors(said)] == [
        'TABLE big postgres: could not execute query: ERROR:  relation "big" already exists'
    ]


def test_a_setting_that_an_older_server_lacks_is_no_error() -> None:
    said = [
        "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "
        '"transaction_timeout"',
        "Command was: SET transaction_timeout = 0;",
    ]

    assert restore_errors(said) == []


def key(table: str, referenced: str) -> ForeignKey:
    return ForeignKey(9, ("public", table), f"{table}_fk", ("public", referenced), "alter …;")


def omitted(found: ForeignKey, *, replica_role: bool) -> list[str]:
    filled = SnapshotTable(
        oid=1,
        schema="public",
        name="leaf",
        columns=(),
        type_oids=(),
        ancestors=(("public", "root"),),
        blocks=0,
        size_bytes=0,
        rows_estimated=None,
        fingerprint="",
    )
    facts = SourceSchema((found,), {}, (), (), frozenset())
    choice = choose_schema(facts, [filled], existing=frozenset(), replica_role=replica_role)
    return [deferred.reason for deferred in choice.deferred()]


def test_a_foreign_key_is_made_unless_its_parent_is_empty_or_it_would_act() -> None:
    assert omitted(key("leaf", "root"), replica_role=True) == []
    assert omitted(key("empty", "other"), replica_role=True) == []
    assert omitted(key("leaf", "empty"), replica_role=True) == [
        "it refers to public.empty, whose rows are not replicated"
    ]
    assert omitted(key("leaf", "root"), replica_role=False) == [
        "our role may not set session_replication_role, so it would act on rows being applied"
    ]
