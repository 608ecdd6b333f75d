"""Columns that constraints and indexes mention as PostgreSQL prints them, against what its catalogue says."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.ddl.mentioned import mentions_any
from tests.fix_postgres import Database

WORDS = """
    create function differ(text, c text) returns boolean language sql immutable as 'select $1 <> c';
    create schema odd;
    create operator odd.<!> (function = differ, leftarg = text, rightarg = text);
    create table t (
        code text, date date, lower text, year int, zone timestamptz, at timestamp, "Key" text, text text,
        i text, t text, public text, btree text, open boolean, "a""(b" int, utc text, c text, time time,
        precision float, text_pattern_ops text, "true" boolean, fillfactor int,
        check (code operator(odd.<!>) text),
        check (differ(code, c => utc) or (i operator(odd.<!>) lower(code)) <> open),
        check (code in ('open', 'date', 'it''s year')),
        check (lower(code) <> ''),
        check (zone at time zone 'utc' > '2000-01-01'::date),
        check (zone::timestamp(3) without time zone > at),
        check (extract(year from date) > 1900),
        check ("Key" <> code::text collate "C"),
        check (year > 0 and code ~ '^a.*'),
        check (substring(lower from 2) <> ''),
        check (open is true or code = 'x'),
        check ("true"),
        check ("a""(b" > 0 or pg_catalog.upper(public) = e'a\\\\b''code'),
        check (time > '10:00'::time and precision > 1e5),
        unique (code, year), exclude using btree (i with =) where (open)
    );
    create unique index code on t (upper(text) collate "C" text_pattern_ops) include (i)
        with (fillfactor = 50) where open;
    create unique index year on t (t text_pattern_ops, lower(btree))
"""
DEFINITIONS = """
    select pg_get_constraintdef(k.oid), array(
           select a.attname::text from pg_attribute a
            where a.attrelid = k.conrelid and a.attnum = any (k.conkey))
      from pg_constraint k where k.conrelid = 't'::regclass and k.contype in ('c', 'u')
     union all
    select coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)), array(
           select a.attname::text from pg_attribute a
            where a.attrelid = i.indrelid and (a.attnum = any (i.indkey::int2[]) or exists (
                  select from pg_depend d
                   where d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
                     and d.refobjid = a.attrelid and d.refobjsubid = a.attnum)))
      from pg_index i left join pg_constraint k on k.conindid = i.indexrelid
     where i.indrelid = 't'::regclass
"""


def test_the_columns_of_a_definition_are_those_of_the_catalogue_whatever_they_are_called(
    source: Database,
) -> None:
    source.execute(WORDS)
    columns = [
        name
        for (name,) in source.execute(
            "select attname from pg_attribute where attrelid = 't'::regclass and attnum > 0"
        )
    ]
    said: Mapping[str, list[str]] = dict(source.execute(DEFINITIONS))
    assert len(said) == 18
    found = {text: {column for column in columns if mentions_any(text, [column])} for text in said}
    assert found == {text: set(names) for text, names in said.items()}
