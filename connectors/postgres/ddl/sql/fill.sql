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
    select 'extension', e.oid from pg_extension e where e.extname <> 'plpgsql'
    union all
    select 'default_acl', d.oid from pg_default_acl d;
end
$$;

-- The published tables: capture must know what they are where tracking begins.
create or replace function keepstream.published_now() returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'class', 'table', 'oid', t.oid::bigint, 'before', t.state, 'after', t.state)), '[]')
          from (select s.oid, keepstream.named(keepstream.stored_state('table', s.oid)) as state
                  from keepstream.schema_state s
                 where s.class = 'table'
                   and (s.state -> 'published' <> '[]' or keepstream.is_of_whole(s.oid))) t
    );
end
$$;

-- Both states of an object, be it that somebody else alters it now: that one's end is awaited.
create or replace function keepstream.settled_states(
    of_class text, id oid, out before_state jsonb, out after_state jsonb
)
language plpgsql volatile as $$
begin
    for attempt in 1 .. 600 loop
        begin
            before_state := keepstream.stored_state(of_class, id);
            after_state := keepstream.describe(of_class, id);
            return;
        exception when lock_not_available then
            perform pg_sleep(0.1);
        end;
    end loop;
    raise exception 'a minute was not enough to read % %: another session alters it', of_class, id
        using errcode = 'lock_not_available', hint = 'Try again when its transaction has ended.';
end
$$;

-- Of an object that somebody alters at this moment, that one's trigger tells the change, and has its row.
create or replace function keepstream.refresh(of_class text, id oid, before_state jsonb, after_state jsonb)
returns void
language plpgsql volatile as $$
begin
    if before_state is not null then
        perform from keepstream.schema_state s where s.class = of_class and s.oid = id for update skip locked;
        if not found or keepstream.stored_state(of_class, id) is distinct from before_state then
            return;
        end if;
    end if;
    perform keepstream.store(of_class, id, before_state, after_state);
end
$$;

-- Bring all states up to date; returns whether any was not. All is read before anything is written: whoever alters
-- something meanwhile waits for the writing at most, and is waited for before it.
create or replace function keepstream.refresh_all() returns boolean
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
declare
    classes text[] := '{}';
    ids oid[] := '{}';
    befores jsonb[] := '{}';
    afters jsonb[] := '{}';
    found record;
begin
    delete from keepstream.schema_state
     where exists (select from keepstream.schema_settings s where s.home <> keepstream.home());
    for found in
        select o.class, o.id, d.before_state, d.after_state
          from (select a.class, a.id from keepstream.all_objects() a
                union
                select s.class, s.oid from keepstream.schema_state s
                 where s.class <> 'index' and s.class not like '% acl') o
         cross join lateral keepstream.settled_states(o.class, o.id) d
         where d.before_state is distinct from d.after_state
    loop
        classes := classes || found.class;
        ids := ids || found.id;
        befores := befores || coalesce(found.before_state, 'null');
        afters := afters || coalesce(found.after_state, 'null');
    end loop;
    for place in 1 .. cardinality(ids) loop
        perform keepstream.refresh(
            classes[place], ids[place], nullif(befores[place], 'null'), nullif(afters[place], 'null'));
    end loop;
    update keepstream.schema_state s set state = s.state || jsonb_build_object('epoch', keepstream.epoch())
     where (s.class, s.oid) in (
               select h.class, h.oid from keepstream.schema_state h
                where h.class = 'table' and h.state ->> 'epoch' is distinct from keepstream.epoch()
                  for update skip locked);
    return cardinality(ids) > 0;
end
$$;

-- Tells capture that from here on every change is told. Of a transaction that was committed since `snapshot`, what it
-- told counts: the states here are older.
create or replace function keepstream.tell_installed() returns void
language plpgsql volatile as $$
begin
    perform keepstream.emit(format('{"installed": true, "snapshot": %s, "changes": %s}',
        to_json(pg_current_snapshot()::text), keepstream.published_now()));
end
$$;

create or replace function keepstream.fill(new_version integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keepstream.refresh_all();
    insert into keepstream.schema_settings as s (version, home) values (new_version, keepstream.home())
    on conflict (only_row) do update set version = excluded.version, home = excluded.home;
    perform keepstream.tell_installed();
end
$$;

-- What was altered while the event triggers were made: nobody told of it.
create or replace function keepstream.settle() returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if keepstream.refresh_all() then
        perform keepstream.tell_installed();
    end if;
end
$$;
