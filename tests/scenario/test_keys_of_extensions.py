"""A pipeline whose tables have keys of extensions' types: followed on both paths, and verified."""

from __future__ import annotations

from typing import Final

from tests.fix_pipeline import Pipeline

EXTENSIONS: Final = (
    'create schema "x %s"; create extension ltree schema "x %s"; grant usage on schema "x %s" to public;'
    " create extension hstore schema public; create extension citext schema public"
)
SCHEMA: Final = """
    create domain public.mail as public.citext;
    set search_path = public, "x %s";
    create table area (k ltree primary key, v int);
    create table trait (k hstore primary key, v int);
    create table person (k mail, area ltree[], v int, primary key (k, area));
"""
CHANGES: Final = """
    insert into area select ('a.b' || i)::ltree, 0 from generate_series(1, 9) i;
    insert into trait select hstore('a', i::text), 0 from generate_series(1, 9) i;
    insert into person select 'A' || i, '{a.b}', 0 from generate_series(1, 9) i;
    update area set v = 1; update area set k = 'c' where k = 'a.b1'; delete from area where k = 'a.b2';
    update trait set v = 1; update trait set k = '' where k = 'a=>1'; delete from trait where k = 'a=>2';
    update person set v = 1; update person set k = 'a1' where k = 'A1'; delete from person where k = 'a2';
    begin; update area set v = 2; update trait set v = 2; update person set v = 2; commit;
"""


def test_keys_of_extensions_types_are_followed_and_verified(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    for database in (pipeline.source, pipeline.replica):
        database.execute_as_admin(EXTENSIONS)
        database.execute(SCHEMA)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("capture")
    for env in ({}, {"KEEPSTREAM_SET_CHANGES": "1"}):
        applying = pipeline.start("apply", "standby", env=env)
        pipeline.wait()
        pipeline.source.execute("delete from area; delete from trait; delete from person")
        for statement in CHANGES.split(";\n"):
            pipeline.source.execute(statement)
        pipeline.wait()
        assert pipeline.verify()["rows"] == 24
        applying.end()
    pipeline.start("apply", "standby")
    pipeline.replica.execute("update area set v = 7 where k = 'c'; update person set v = 7 where k = 'A1'")
    done = pipeline.run("verify", "standby", "--json")
    assert done.code == 6
    differing = {table["table"]: table["differing_keys"] for table in done.json["tables"]}
    assert [(row["key"], row["columns"]) for row in differing["public.area"]] == [({"k": "c"}, ["v"])]
    assert [row["columns"] for row in differing["public.person"]] == [["v"]]
