do $$
begin
    if pg_catalog.to_regclass('keepstream.schema_settings') is not null then
        perform keepstream.emit('{"removed": true, "changes": []}');
    end if;
end
$$;
drop event trigger if exists keepstream_ddl;
drop event trigger if exists keepstream_drop;
drop event trigger if exists keepstream_rewrite;
do $$
declare
    made record;
begin
    if pg_catalog.to_regclass('keepstream.schema_key') is null then
        return;
    end if;
    for made in
        select p.oid::pg_catalog.regprocedure as signature
          from pg_catalog.pg_proc p
         where p.pronamespace = 'keepstream'::pg_catalog.regnamespace
    loop
        execute pg_catalog.format('drop function %s', made.signature);
    end loop;
    drop table if exists keepstream.schema_state, keepstream.schema_settings;
    -- A capture that is down has yet to read what the key sealed.
    if not exists (
        select from pg_catalog.pg_replication_slots s
         where s.database = pg_catalog.current_database() and s.slot_name like 'keepstream\_%')
    then
        drop table if exists keepstream.schema_key;
    end if;
    if not exists (
        select from pg_catalog.pg_class c where c.relnamespace = 'keepstream'::pg_catalog.regnamespace)
    then
        drop schema keepstream;
    end if;
end
$$;
