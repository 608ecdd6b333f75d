-- The event triggers' functions. The outer ones leave temporary objects out at little cost, and see to it
-- that no error of ours reaches the application; the inner ones pin what changes the text of expressions.

-- Who gave the command: ours run as their owner.
create or replace function keepstream.acting_role() returns text
language plpgsql stable as $$
begin
    return coalesce(nullif(current_setting('role'), 'none'), session_user::text);
end
$$;

-- One message for one command. `told`: what keepstream.commands said of it; `dropped` and `dropped_others`:
-- what keepstream.on_drop remembered of it.
create or replace function keepstream.record_command(
    tag text, told jsonb, dropped jsonb, dropped_others jsonb
) returns void
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
set row_security = off
set max_parallel_workers_per_gather = 0
set jit = off
as $$
declare
    classes text[];
    ids oid[];
    altered oid[] := keepstream.altered_here();
    changes jsonb[] := '{}';
    change jsonb;
    is_rewritten boolean;
    verdict text;
    row_tables oid[] := '{}';
    row_table oid;
    moved oid[] := '{}';
begin
    if keepstream.home() <> (select s.home from keepstream.schema_settings s) then
        perform keepstream.emit(
            '{"error": "55000 restored or upgraded since it was installed", "changes": []}');
        return;
    end if;
    select array_agg(f.class order by f.rank, f.place), array_agg(f.id order by f.rank, f.place)
      into classes, ids
      from (select distinct on (a.class, a.id) a.class, a.id, a.rank, a.place from (
                select d.value ->> 0 as class, (d.value ->> 1)::oid as id,
                       case d.value ->> 0 when 'schema' then 1 else 0 end as rank, d.ordinality as place
                  from jsonb_array_elements(dropped) with ordinality d
                union all
                select t.class, t.id, 2, t.place from keepstream.touched(told) t
                union all
                select g.class, g.id, 2, g.id::bigint from keepstream.granted(told, tag) g
            ) a order by a.class, a.id, a.rank, a.place) f;
    if tag = 'ALTER TYPE' then  -- typed tables are altered with their type
        select classes || array_agg('table'::text order by t.oid), ids || array_agg(t.oid order by t.oid)
          into classes, ids
          from pg_type c join pg_class t on t.reloftype = c.oid and t.oid = any (altered)
         where c.oid = any (ids);
    end if;
    if tag = any (array['ALTER TABLE', 'ALTER INDEX', 'CREATE INDEX', 'CREATE TRIGGER', 'ALTER TRIGGER',
                        'DROP TRIGGER'])
    then
        select classes || array_agg(k.class order by k.id), ids || array_agg(k.id order by k.id)
          into classes, ids
          from keepstream.kin(array(
                   select s.id from unnest(classes, ids) as s(class, id) where s.class = 'table'), altered) k
         where not exists (
                   select from unnest(classes, ids) as s(class, id) where s.class = k.class and s.id = k.id);
    end if;
    for place in 1 .. coalesce(array_length(ids, 1), 0) loop
        is_rewritten := classes[place] = 'table' and keepstream.was_rewritten(ids[place]);
        change := keepstream.change_of(classes[place], ids[place], ids[place] = any (altered));
        if change is null then
            continue;
        end if;
        if keepstream.moves_tree(change) then
            moved := moved || ids[place];
        end if;
        if is_rewritten or keepstream.brings_rows(change) then
            verdict := keepstream.rows_verdict(ids[place]);
            change := change || jsonb_build_object('rewritten', verdict);
            if verdict = 'sent' then
                row_tables := row_tables || ids[place];
            end if;
        end if;
        changes := changes || change;
    end loop;
    changes := changes || keepstream.below(moved, changes) || keepstream.others(told) || array(
        select keepstream.other_change(
                   (d.value ->> 0)::oid, tag, (d.value ->> 1) || ' ' || (d.value ->> 2), false)
          from jsonb_array_elements(dropped_others) with ordinality d order by d.ordinality);
    if cardinality(changes) = 0 then
        return;
    end if;
    perform keepstream.emit(format('{"tag": %s, "role": %s, "changes": [%s]}',
        to_json(tag), to_json(keepstream.acting_role()), array_to_string(changes::text[], ', ')));
    foreach row_table in array row_tables loop
        perform keepstream.emit_rows(row_table);
    end loop;
end
$$;

-- Which tables the command may have given other values in their rows: unless we know better, any that it locked.
create or replace function keepstream.rewritten_here(is_known boolean) returns oid[]
language plpgsql stable as $$
begin
    return case when is_known then array(
        select s.oid from keepstream.schema_state s where s.rewritten = pg_current_xact_id_if_assigned())
        else keepstream.altered_here() end;
exception when others then
    return keepstream.altered_here();
end
$$;

create or replace function keepstream.record_failure(tag text, said text, is_rewrite_known boolean) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keepstream.emit(format('{"tag": %s, "role": %s, "error": %s, "rewrote": %s, "changes": []}',
        to_json(tag), to_json(keepstream.acting_role()), to_json(said),
        to_json(keepstream.rewritten_here(is_rewrite_known)::bigint[])));
    raise warning 'keepstream could not follow this %: %', tag, said
        using hint = 'The statement itself succeeded. What it changed is told with the next change of the same'
            ' object; capture stops if rows depend on it. See docs/schema-changes.md.';
exception when others then
    raise warning 'keepstream could not follow this %, nor say so: %', tag, sqlerrm;
end
$$;

create or replace function keepstream.on_ddl() returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    told jsonb;
    dropped jsonb;
    dropped_others jsonb;
begin
    told := keepstream.commands();
    dropped := keepstream.recall('keepstream.ddl_dropped');
    dropped_others := keepstream.recall('keepstream.ddl_dropped_others');
    if coalesce(told, dropped, dropped_others) is null and tg_tag <> 'DROP OWNED' then
        return;
    end if;
    if dropped is not null or dropped_others is not null then
        perform keepstream.remember('keepstream.ddl_dropped', null::jsonb);
        perform keepstream.remember('keepstream.ddl_dropped_others', null::jsonb);
    end if;
    begin
        perform keepstream.record_command(tg_tag, told, dropped, dropped_others);
    exception when others then
        -- what another session did in between shows in a second look
        perform keepstream.record_command(tg_tag, told, dropped, dropped_others);
    end;
exception when others then
    perform keepstream.record_failure(tg_tag, sqlstate || ' ' || sqlerrm, true);
end
$$;

-- Remembers for keepstream.on_ddl, which comes after it, what its command dropped.
create or replace function keepstream.on_drop() returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found jsonb;
begin
    if not exists (select from pg_event_trigger_dropped_objects() d where not d.is_temporary) then
        return;
    end if;
    found := keepstream.dropped();
    if found is not null then
        perform keepstream.remember('keepstream.ddl_dropped', found);
    end if;
    found := keepstream.dropped_others();
    if found is not null then
        perform keepstream.remember('keepstream.ddl_dropped_others', found);
    end if;
exception when others then
    perform keepstream.record_failure(tg_tag, sqlstate || ' ' || sqlerrm, true);
end
$$;

-- Notes which tables get new values in their rows: 2 is for a default, 4 for a type.
create or replace function keepstream.on_rewrite() returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_event_trigger_table_rewrite_reason() & 6 <> 0 then
        update keepstream.schema_state s set rewritten = pg_current_xact_id()
         where s.class = 'table' and s.oid = pg_event_trigger_table_rewrite_oid();
    end if;
exception when others then
    perform keepstream.record_failure(tg_tag, sqlstate || ' ' || sqlerrm, false);
end
$$;
