-- All objects' states as they are now.

create or replace function keepstream.all_objects() returns table (class text, id oid)
language plpgsql stable as $$
begin
    return query
    select k.class, k.subject
      from pg_class c cross join lateral keepstream.class_of_relation(c.oid) k
     where c.relkind in ('r', 'p', 'v', 'm', 'S', 'c') and c.relpersistence <> 't'
       and keepstream.follows_schema(c.relnamespace)
    union all
    select case t.typtype when 'e' then 'enum' when 'd' then 'domain' else 'range' end, t.oid
      from pg_type t where t.typtype in ('d', 'e', 'r') and keepstream.follows_schema(t.typnamespace)
    union all
    select 'function', p.oid from pg_proc p
     where p.prokind <> 'a' and keepstream.follows_schema(p.pronamespace)
    union all
    select 'schema', n.oid from pg_namespace n where keepstream.follows_schema(n.oid)
    union all
    select 'extension', e.oid from pg_extension e where e.extname <> 'plpgsql';
end
$$;

-- The published tables: capture must know what they are where tracking begins.
create or replace function keepstream.published_now() returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'class', 'table', 'oid', t.oid::bigint, 'before', t.state, 'after', t.state)), '[]')
          from (select s.oid, keepstream.stored_state('table', s.oid) as state
                  from keepstream.schema_state s
                 where s.class = 'table' and s.state -> 'published' <> '[]') t
    );
end
$$;

-- Bring all states up to date, and tell capture that from here on every change is told. It waits for nobody
-- who alters something meanwhile: the trigger tells that one's changes.
create or replace function keepstream.fill(new_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
set bytea_output = 'hex'
set lc_monetary = 'C'
set xmloption = 'content'
set standard_conforming_strings = on
set quote_all_identifiers = off
set max_parallel_workers_per_gather = 0
set jit = off
as $$
begin
    delete from keepstream.schema_state
     where exists (select from keepstream.schema_settings s where s.home <> keepstream.home());
    perform keepstream.change_of(o.class, o.id)
       from (select a.class, a.id from keepstream.all_objects() a
             union
             select s.class, s.oid from keepstream.schema_state s where s.class <> 'index') o;
    insert into keepstream.schema_settings as s (version, home) values (new_version, keepstream.home())
    on conflict (only_row) do update set version = excluded.version, home = excluded.home;
    perform keepstream.emit(format('{"installed": true, "changes": %s}', keepstream.published_now()));
end
$$;
