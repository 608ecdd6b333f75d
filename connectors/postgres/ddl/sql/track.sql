-- The trigger's work: which objects did this command touch, what are they now, what were they before?

-- Where this was installed: a restored dump or an upgraded server has other OIDs, and states that mean
-- nothing.
create or replace function keepstream.home() returns text
language plpgsql stable as $$
begin
    return concat_ws(' ', current_setting('server_version_num')::integer / 10000,
        (select d.oid from pg_database d where d.datname = current_database()),
        'keepstream.schema_state'::regclass::oid);
end
$$;

-- A message of this transaction, with its ordinal and its seal, by which capture knows that the trigger
-- wrote it. `body` is the text of a JSON object. Logical decoding sorts by LSN, and a message has that of its end: the
-- same as a row right behind it, which may then be sent before it. So something that is no part of the transaction
-- stands between them.
create or replace function keepstream.emit(body text) returns void
language plpgsql volatile as $$
declare
    xid text := pg_current_xact_id()::text;
    earlier text[] := string_to_array(current_setting('keepstream.ddl_messages', true), '/');
    ordinal integer := case
        when earlier[1] = xid and earlier[2] ~ '^\d{1,8}$' then earlier[2]::integer else 0 end;
    content text := format('{"v": 1, "xid": "%s", "n": %s, ', xid, ordinal) || substr(body, 2);
    secret bytea := (select k.key from keepstream.schema_key k);
    inner_hash bytea := sha256(secret || sha256(secret || convert_to(content, 'UTF8')));
begin
    perform set_config('keepstream.ddl_messages', xid || '/' || ordinal + 1, true);
    perform pg_logical_emit_message(
        true, 'keepstream.ddl', convert_to(encode(inner_hash, 'hex') || content, 'UTF8'));
    perform pg_logical_emit_message(false, 'keepstream.behind', ''::text);
end
$$;

-- What the handlers of one command, or one transaction, tell each other: [] or what was remembered there.
create or replace function keepstream.recall(setting text) returns jsonb
language plpgsql stable as $$
declare
    held text := current_setting(setting, true);
    xid text := coalesce(pg_current_xact_id_if_assigned()::text, '');
begin
    return case when split_part(held, '/', 1) = xid then nullif(substr(held, length(xid) + 2), '')::jsonb end;
end
$$;

create or replace function keepstream.remember(setting text, told jsonb) returns void
language plpgsql volatile as $$
begin
    perform set_config(setting, pg_current_xact_id()::text || '/' || coalesce(told::text, ''), true);
end
$$;

-- Which event triggers these are, and since when: another text once one was disabled or enabled. A state that was
-- stored under another one may be from before DDL that nobody told.
create or replace function keepstream.epoch() returns text
language plpgsql stable as $$
begin
    return (
        select string_agg(t.oid || ':' || t.xmin, ' ' order by t.evtname) from pg_event_trigger t
         where t.evtname in ('keepstream_ddl', 'keepstream_drop', 'keepstream_rewrite'));
end
$$;

create or replace function keepstream.is_hiding(of_class text, id oid) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from keepstream.schema_state s
         where of_class = 'table' and s.class = 'table' and s.oid = id
           and s.state ->> 'epoch' is distinct from keepstream.epoch());
end
$$;

-- The last known state of an object. A table's indexes and an object's privileges have rows of their own: another
-- session may make an index, or GRANT, while somebody alters the object, and neither is to wait for the other.
create or replace function keepstream.stored_state(of_class text, id oid) returns jsonb
language plpgsql stable as $$
declare
    found_state jsonb := (
        select s.state - 'epoch' from keepstream.schema_state s where s.class = of_class and s.oid = id);
begin
    if found_state is null or of_class = 'extension' then
        return found_state;
    end if;
    found_state := found_state || jsonb_build_object('acl', (
        select s.state from keepstream.schema_state s where s.class = of_class || ' acl' and s.oid = id));
    if of_class not in ('table', 'view', 'matview') then
        return found_state;
    end if;
    return found_state || jsonb_build_object('part_acl', (
        select s.state from keepstream.schema_state s where s.class = of_class || ' part acl' and s.oid = id
    ), 'indexes', (
        select coalesce(jsonb_agg(i.state order by i.oid), '[]')
          from keepstream.schema_state i where i.class = 'index' and i.parent = id));
end
$$;

create or replace function keepstream.put_state(of_class text, id oid, of_parent oid, now_state jsonb)
returns void
language plpgsql volatile as $$
begin
    insert into keepstream.schema_state as s (class, oid, parent, state)
    values (of_class, id, of_parent, case of_class when 'table'
        then now_state || jsonb_build_object('epoch', keepstream.epoch()) else now_state end)
    on conflict (class, oid) do update
       set parent = excluded.parent, rewritten = null, state = excluded.state;
end
$$;

-- What of a state stands in the object's own row.
create or replace function keepstream.core(state jsonb) returns jsonb
language plpgsql immutable as $$
begin
    return state - 'indexes' - 'acl' - 'part_acl';
end
$$;

-- Privileges have a row of their own, if there are any.
create or replace function keepstream.store_acl(of_class text, id oid, before_acl jsonb, after_acl jsonb)
returns void
language plpgsql volatile as $$
begin
    if after_acl is not distinct from before_acl then
        return;
    elsif coalesce(after_acl, 'null') = 'null' then
        delete from keepstream.schema_state s where s.class = of_class and s.oid = id;
    else
        perform keepstream.put_state(of_class, id, 0::oid, after_acl);
    end if;
end
$$;

-- `before_state` and `after_state` are of one snapshot: what others committed since is not ours to store.
create or replace function keepstream.store(of_class text, id oid, before_state jsonb, after_state jsonb)
returns void
language plpgsql volatile as $$
declare
    core jsonb := keepstream.core(after_state);
    index_state jsonb;
begin
    if after_state is null then
        delete from keepstream.schema_state s where s.class = of_class and s.oid = id;
    elsif core is distinct from keepstream.core(before_state) then
        perform keepstream.put_state(of_class, id,
            coalesce((after_state ->> 'partition_of')::oid, 0), core);
    end if;
    perform keepstream.store_acl(of_class || ' acl', id, before_state -> 'acl', after_state -> 'acl');
    perform keepstream.store_acl(
        of_class || ' part acl', id, before_state -> 'part_acl', after_state -> 'part_acl');
    delete from keepstream.schema_state s
     where s.class = 'index' and s.oid in (
               select (b.value ->> 'oid')::oid from jsonb_array_elements(before_state -> 'indexes') b
               except
               select (a.value ->> 'oid')::oid from jsonb_array_elements(after_state -> 'indexes') a);
    for index_state in
        select a.value from jsonb_array_elements(after_state -> 'indexes') a
        except
        select b.value from jsonb_array_elements(before_state -> 'indexes') b
    loop
        perform keepstream.put_state('index', (index_state ->> 'oid')::oid, id, index_state);
    end loop;
end
$$;

create or replace function keepstream.was_rewritten(id oid) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from keepstream.schema_state s
         where s.class = 'table' and s.oid = id and s.rewritten = pg_current_xact_id_if_assigned());
end
$$;

create or replace function keepstream.is_there(of_class text, id oid) returns boolean
language plpgsql stable as $$
begin
    return case
        when of_class in ('table', 'index', 'view', 'matview', 'sequence')
            then exists (select from pg_class c where c.oid = id)
        when of_class = 'function' then exists (select from pg_proc p where p.oid = id)
        when of_class = 'schema' then exists (select from pg_namespace n where n.oid = id)
        when of_class = 'extension' then exists (select from pg_extension e where e.oid = id)
        when of_class = 'default_acl' then exists (select from pg_default_acl d where d.oid = id)
        else exists (select from pg_type t where t.oid = id)
    end;
end
$$;

-- Relations on which this transaction holds a lock of one of these modes.
create or replace function keepstream.locked_here(modes text[]) returns oid[]
language plpgsql stable as $$
begin
    return array(
        select l.relation from pg_locks l
         where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.granted
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
           and l.mode = any (modes));
end
$$;

-- Those that a command of it may have altered: nobody else has such a lock beside it.
create or replace function keepstream.altered_here() returns oid[]
language plpgsql stable as $$
begin
    return keepstream.locked_here(array[
        'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock']);
end
$$;

-- Both states, in one snapshot.
create or replace function keepstream.states_of(
    of_class text, id oid, is_locked boolean, out before_state jsonb, out after_state jsonb
)
language plpgsql stable as $$
begin
    before_state := keepstream.stored_state(of_class, id);
    after_state := case when of_class <> 'table' or is_locked or before_state is null
        then keepstream.describe(of_class, id) else keepstream.describe_around(id, before_state) end;
end
$$;

-- The row of an object that PostgreSQL may let two alter at once, for us. Who has it may want next what our command
-- has locked: then we give up, long before PostgreSQL looks for a deadlock, and the object's next change tells this one.
create or replace function keepstream.held_shortly(of_class text, id oid) returns jsonb
language plpgsql volatile
set lock_timeout = '300ms'
as $$
declare
    held jsonb;
begin
    select s.state - 'epoch' into held
      from keepstream.schema_state s where s.class = of_class and s.oid = id
       for update;
    return held;
end
$$;

-- The change of one object since it was last looked at, as the message has it; null for none. `is_locked`: whether
-- the command has the table for itself. Then its row is waited for, which nobody holds who would wait for us; of a
-- table that somebody else is altering, that one tells what is in its row.
create or replace function keepstream.change_of(of_class text, id oid, is_locked boolean) returns jsonb
language plpgsql volatile as $$
declare
    before_state jsonb;
    after_state jsonb;
    held jsonb;
    hidden jsonb := case when keepstream.is_hiding(of_class, id) then '{"hidden": true}' else '{}' end;
begin
    select * into before_state, after_state from keepstream.states_of(of_class, id, is_locked);
    if keepstream.core(before_state) is distinct from keepstream.core(after_state) then
        if of_class = 'table' and not is_locked then
            select s.state - 'epoch' into held
              from keepstream.schema_state s where s.class = of_class and s.oid = id
               for update skip locked;
            if not found then
                after_state := keepstream.core(before_state) || jsonb_build_object(
                    'acl', after_state -> 'acl', 'part_acl', after_state -> 'part_acl',
                    'indexes', after_state -> 'indexes');
                held := keepstream.core(before_state);
            end if;
        elsif of_class = 'table' then
            select s.state - 'epoch' into held
              from keepstream.schema_state s where s.class = of_class and s.oid = id
               for update;
        else
            held := keepstream.held_shortly(of_class, id);
        end if;
        if held is distinct from keepstream.core(before_state) then
            select * into before_state, after_state from keepstream.states_of(of_class, id, is_locked);
        end if;
    end if;
    if before_state is not distinct from after_state then
        return null;
    end if;
    perform keepstream.store(of_class, id, before_state, after_state);
    if after_state is null and keepstream.is_there(of_class, id) then
        return null;
    end if;
    return jsonb_build_object('class', of_class, 'oid', id::bigint,
        'before', keepstream.named(before_state), 'after', keepstream.named(after_state)) || hidden;
end
$$;

-- What PostgreSQL says of the command, without what is temporary, an extension's, or ours; null for nothing.
create or replace function keepstream.commands() returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_agg(jsonb_build_object(
                   'classid', c.classid::bigint, 'objid', c.objid::bigint, 'tag', c.command_tag,
                   'type', c.object_type, 'identity', c.object_identity, 'place', c.ordinality))
          from pg_event_trigger_ddl_commands() with ordinality c
         where not c.in_extension and c.schema_name is distinct from 'pg_temp'
           and c.schema_name is distinct from 'keepstream'
    );
end
$$;

-- Those objects that a command created or altered, in its order. Of GRANT, PostgreSQL tells no object: those
-- are looked at whose privileges are other than they were, among rows as young as this transaction.
create or replace function keepstream.touched(told jsonb) returns table (class text, id oid, place bigint)
language plpgsql stable as $$
begin
    return query
    with commands as (
        select c.classid, c.objid, c.tag, c.place
          from jsonb_to_recordset(told) as c(classid oid, objid oid, tag text, place bigint)
         where c.objid <> 0
    ),
    relations as (
        select coalesce(i.indrelid, owned.refobjid, c.objid) as objid, c.place
          from commands c
          left join pg_index i on i.indexrelid = c.objid
          left join pg_depend owned
            on owned.classid = 'pg_class'::regclass and owned.objid = c.objid and owned.deptype = 'i'
           and owned.refclassid = 'pg_class'::regclass and owned.refobjsubid > 0
         where c.classid = 'pg_class'::regclass
        union all
        select k.conrelid, c.place from commands c join pg_constraint k on k.oid = c.objid
         where c.classid = 'pg_constraint'::regclass and k.conrelid <> 0
        union all
        select t.tgrelid, c.place from commands c join pg_trigger t on t.oid = c.objid
         where c.classid = 'pg_trigger'::regclass
        union all
        select r.ev_class, c.place from commands c join pg_rewrite r on r.oid = c.objid
         where c.classid = 'pg_rewrite'::regclass
        union all
        select p.polrelid, c.place from commands c join pg_policy p on p.oid = c.objid
         where c.classid = 'pg_policy'::regclass
        union all
        select d.adrelid, c.place from commands c join pg_attrdef d on d.oid = c.objid
         where c.classid = 'pg_attrdef'::regclass
        union all
        select p.prrelid, c.place from commands c join pg_publication_rel p on p.oid = c.objid
         where c.classid = 'pg_publication_rel'::regclass
        union all
        select p.prrelid, c.place from commands c join pg_publication_rel p on p.prpubid = c.objid
         where c.classid = 'pg_publication'::regclass and c.tag = 'CREATE PUBLICATION'
        union all
        select t.typrelid, c.place from commands c join pg_type t on t.oid = c.objid
         where c.classid = 'pg_type'::regclass and t.typtype = 'c'
    ),
    subjects as (
        select k.class, k.subject as id, r.place
          from relations r cross join lateral keepstream.class_of_relation(r.objid) k
        union all
        select case t.typtype when 'e' then 'enum' when 'd' then 'domain' when 'r' then 'range'
                              else 'other' end,
               t.oid, c.place
          from commands c join pg_type t on t.oid = c.objid
         where c.classid = 'pg_type'::regclass and t.typtype in ('b', 'd', 'e', 'p', 'r') and t.typelem = 0
        union all
        select 'range', r.rngtypid, c.place from commands c join pg_range r on r.rngmultitypid = c.objid
         where c.classid = 'pg_type'::regclass
        union all
        select 'domain', k.contypid, c.place from commands c join pg_constraint k on k.oid = c.objid
         where c.classid = 'pg_constraint'::regclass and k.contypid <> 0
        union all
        select case p.prokind when 'a' then 'other' else 'function' end, p.oid, c.place
          from commands c join pg_proc p on p.oid = c.objid
         where c.classid = 'pg_proc'::regclass
        union all
        select 'schema', c.objid, c.place from commands c where c.classid = 'pg_namespace'::regclass
        union all
        select 'extension', c.objid, c.place from commands c where c.classid = 'pg_extension'::regclass
    )
    select s.class, s.id, min(s.place) from subjects s where s.class <> 'other' group by s.class, s.id;
end
$$;

-- Columns and the sequences of identity columns belong to their table's state. Columns are looked through
-- only if this transaction has altered any.
create or replace function keepstream.granted_parts(kinds text[]) returns table (class text, id oid)
language plpgsql stable as $$
declare
    alters_columns boolean := kinds && array['TABLE']
        and (pg_stat_get_xact_tuples_updated('pg_attribute'::regclass) > 0
             or not current_setting('track_counts')::boolean);
begin
    if not (alters_columns or kinds && array['SEQUENCE']) then
        return;
    end if;
    return query
    with young as materialized (select age(pg_current_xact_id()::xid) as age),
    parts as (
        select a.attrelid as relation, a.attnum::integer as num, false as is_sequence, a.attacl::text[] as acl
          from pg_attribute a, young y
         where alters_columns and a.attnum > 0 and age(a.xmin) <= y.age and not a.attisdropped
        union all
        select d.refobjid, d.refobjsubid, true, c.relacl::text[]
          from pg_class c cross join young y
          join pg_depend d
            on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i'
           and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
         where kinds && array['SEQUENCE'] and c.relkind = 'S' and age(c.xmin) <= y.age
    ),
    told as (
        select p.relation, p.num, p.is_sequence, to_jsonb(p.acl) as acl, k.class, (
                   select h.state from keepstream.schema_state h
                    where h.class = k.class || ' part acl' and h.oid = p.relation) as part_acl
          from parts p cross join lateral keepstream.class_of_relation(p.relation) k
    )
    select distinct t.class, t.relation
      from told t
     where (t.acl is not null or t.part_acl is not null) and t.acl is distinct from (
               select e.value -> 'acl' from jsonb_array_elements(t.part_acl) e
                where (e.value ->> 'num')::integer = t.num and (e.value ? 'sequence') = t.is_sequence);
end
$$;

-- Whose privileges are others than they were. `tag`: of the command, which may take away any.
create or replace function keepstream.granted(told jsonb, tag text) returns table (class text, id oid)
language plpgsql stable as $$
declare
    kinds text[] := case
        when tag in ('GRANT', 'REVOKE')
            then array(select upper(c.value ->> 'type') from jsonb_array_elements(told) c)
        when tag = 'DROP OWNED' then array['TABLE', 'SEQUENCE', 'FUNCTION', 'SCHEMA', 'TYPE'] end;
begin
    if tag in ('ALTER DEFAULT PRIVILEGES', 'DROP OWNED') then
        return query
        select 'default_acl', d.oid from pg_default_acl d
        union
        select s.class, s.oid from keepstream.schema_state s where s.class = 'default_acl';
    end if;
    if kinds is null then
        return;
    end if;
    return query
    with young as materialized (select age(pg_current_xact_id()::xid) as age),
    found as (
        select case c.relkind when 'v' then 'view' when 'm' then 'matview' when 'S' then 'sequence'
                              else 'table' end as class, c.oid, c.relacl::text[] as acl
          from pg_class c, young y
         where kinds && array['TABLE', 'SEQUENCE']
           and c.relkind in ('r', 'p', 'v', 'm', 'S') and age(c.xmin) <= y.age
        union all
        select 'function', p.oid, p.proacl::text[] from pg_proc p, young y
         where kinds && array['FUNCTION', 'PROCEDURE', 'ROUTINE'] and age(p.xmin) <= y.age
        union all
        select 'schema', n.oid, n.nspacl::text[] from pg_namespace n, young y
         where kinds && array['SCHEMA'] and age(n.xmin) <= y.age
        union all
        select case t.typtype when 'e' then 'enum' when 'd' then 'domain' when 'c' then 'composite'
                              else 'range' end, t.oid, t.typacl::text[]
          from pg_type t, young y
         where kinds && array['TYPE', 'DOMAIN'] and t.typtype in ('c', 'd', 'e', 'r') and age(t.xmin) <= y.age
    )
    select f.class, f.oid
      from found f
     where to_jsonb(f.acl) is distinct from (
               select s.state from keepstream.schema_state s where s.class = f.class || ' acl' and s.oid = f.oid)
    union
    select p.class, p.id from keepstream.granted_parts(kinds) p;
end
$$;

-- What comes along with a table that was altered, as far as the command has altered it: tables that inherit from it
-- or did (DETACH PARTITION), and the sequences that its columns own.
create or replace function keepstream.kin(tables oid[], altered oid[]) returns table (class text, id oid)
language plpgsql stable as $$
declare
    locked oid[] := altered || keepstream.locked_here(array['ShareLock']);
begin
    return query
    with recursive family(id) as (
        select unnest(tables)
        union
        select h.inhrelid from family f join pg_inherits h on h.inhparent = f.id
    ),
    kin(class, id) as (
    select 'table', f.id from family f where f.id <> all (tables)
    union
    select 'table', s.oid from keepstream.schema_state s
     where s.class = 'table' and s.parent = any (tables) and s.parent <> 0
    union
    select 'sequence', d.objid
      from family f
     cross join lateral (
               select p.objid from pg_depend p
                where p.refclassid = 'pg_class'::regclass and p.refobjid = f.id and p.refobjsubid > 0
                  and p.classid = 'pg_class'::regclass and p.deptype = 'a'
               offset 0) d
     where (select c.relkind from pg_class c where c.oid = d.objid) = 'S'
    )
    select k.class, k.id from kin k where k.id = any (locked);
end
$$;

-- What has no state: it is named, not followed.
create or replace function keepstream.other_change(id oid, tag text, identity text, made boolean)
returns jsonb
language plpgsql immutable as $$
declare
    named jsonb := jsonb_build_object(
        'tag', tag, 'identity', identity, 'schema', null, 'name', null, 'owner', null, 'acl', null,
        'comment', null);
begin
    return jsonb_build_object('class', 'other', 'oid', id::bigint,
        'before', case when not made then named end, 'after', case when made then named end);
end
$$;

create or replace function keepstream.others(told jsonb) returns jsonb[]
language plpgsql stable as $$
begin
    return (
        select array_agg(keepstream.other_change(c.objid, c.tag, c.identity, true) order by c.place)
          from jsonb_to_recordset(told)
               as c(classid oid, objid oid, tag text, identity text, place bigint)
         where c.objid <> 0
           and case c.classid
                   when 'pg_class'::regclass
                       then (select r.relkind from pg_class r where r.oid = c.objid) = 'f'
                   when 'pg_type'::regclass
                       then (select t.typtype from pg_type t where t.oid = c.objid) in ('b', 'p')
                   when 'pg_proc'::regclass
                       then (select p.prokind from pg_proc p where p.oid = c.objid) = 'a'
                   else c.classid <> all (array[
                       'pg_constraint', 'pg_trigger', 'pg_rewrite', 'pg_policy', 'pg_attrdef', 'pg_namespace',
                       'pg_extension', 'pg_publication', 'pg_publication_rel', 'pg_publication_namespace',
                       'pg_default_acl']::regclass[])
               end
    );
end
$$;

-- Of what this command dropped: [[class, oid], ...] of the objects that have a state, or had a part of it.
-- Each is looked up by its key: the planner expects so many that it would read all states.
create or replace function keepstream.dropped() returns jsonb
language plpgsql stable as $$
begin
    return (
    with gone as (
        select d.classid, d.objid, d.objsubid, d.address_names, d.object_type, d.ordinality as place
          from pg_event_trigger_dropped_objects() with ordinality d
         where not d.is_temporary and d.schema_name is distinct from 'keepstream'
    ),
    parts as (
        select g.place, case
                   when g.classid = 'pg_class'::regclass and g.objsubid = 0 then (
                       select s.parent from keepstream.schema_state s
                        where s.class = 'index' and s.oid = g.objid)
                   when g.objsubid > 0 or g.object_type in (
                       'table constraint', 'trigger', 'rule', 'policy', 'default value',
                       'publication relation') then
                       to_regclass(format('%I.%I', g.address_names[1], g.address_names[2]))::oid
               end as relation
          from gone g
    ),
    subjects as (
        select g.objid as oid, g.place, (
                   select s.class from keepstream.schema_state s
                    where s.oid = g.objid and s.class = any (case g.classid
                              when 'pg_class'::regclass then array['table', 'view', 'matview', 'sequence']
                              when 'pg_type'::regclass then array['enum', 'domain', 'composite', 'range']
                              when 'pg_proc'::regclass then array['function']
                              when 'pg_namespace'::regclass then array['schema']
                              when 'pg_extension'::regclass then array['extension']
                              when 'pg_default_acl'::regclass then array['default_acl'] end)) as class
          from gone g
        union all
        select k.subject, p.place, k.class
          from parts p cross join lateral keepstream.class_of_relation(p.relation) k
         where p.relation is not null
    )
    select jsonb_agg(jsonb_build_array(f.class, f.oid::bigint) order by f.place)
      from (select s.class, s.oid, min(s.place) as place from subjects s
             where s.class is not null group by s.class, s.oid) f
    );
end
$$;

-- Without what an extension's script drops, which was never a member of anything else.
create or replace function keepstream.dropped_others() returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_agg(jsonb_build_array(d.objid::bigint, d.object_type, d.object_identity)
                         order by d.ordinality)
          from pg_event_trigger_dropped_objects() with ordinality d
         where d.original and not d.is_temporary and d.schema_name is distinct from 'keepstream'
           and current_query() !~* '\m(create|alter)\s+extension\M'
           and d.object_type in (
                   'operator', 'operator class', 'operator family', 'cast', 'collation', 'conversion',
                   'aggregate',
                   'text search configuration', 'text search dictionary', 'text search parser',
                   'text search template', 'statistics object', 'foreign table', 'foreign-data wrapper',
                   'server',
                   'user mapping', 'language', 'transform', 'access method', 'subscription')
    );
end
$$;
