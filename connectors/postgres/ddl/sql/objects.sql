-- What is kept on the source: the key, the settings, and the last known state of each object.
-- `class` is the contract's: schema, table, index, sequence, enum, domain, composite, range, view, matview,
-- function, extension, default_acl; and `table acl` and so on for an object's privileges, `table part acl` for those
-- on its columns and their sequences. `parent` of an index is its table, of a partition the table that it is a
-- partition of.
-- `rewritten`: the transaction that gave the table's rows other values, until that is told. It stands here
-- because the application, whose functions a rewrite may call, could reset a setting.

create table if not exists keepstream.schema_key (
    only_row boolean primary key default true check (only_row),
    key bytea not null
);

insert into keepstream.schema_key (key)
select decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
on conflict do nothing;

create table if not exists keepstream.schema_settings (
    only_row boolean primary key default true check (only_row),
    version integer not null,
    max_rows_bytes bigint not null default 268435456,
    home text not null
);

create table if not exists keepstream.schema_state (
    class text not null,
    oid oid not null,
    parent oid not null default 0,
    rewritten xid8,
    state jsonb not null,
    primary key (class, oid)
);

-- IF NOT EXISTS would lock the table, and wait for whoever is altering something, and let others wait behind it.
do $$
begin
    if pg_catalog.to_regclass('keepstream.schema_state_parent') is null then
        create index schema_state_parent on keepstream.schema_state (parent) where parent <> 0;
    end if;
end
$$;
