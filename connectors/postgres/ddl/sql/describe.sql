-- An object as the catalog has it now, as jsonb; null if it is gone or not followed.
-- They run inside of the trigger's functions, which pin whatever changes the text of expressions. Every call
-- of one of ours names the very types of its arguments, so that no function of somebody else's fits better.
-- Schemas, parents and owning columns stand in a state by their OIDs, so that it stays true when one of them is
-- renamed, which locks nothing else; `named` gives them their names when a message is written.

create or replace function keepstream.follows_schema(schema oid) returns boolean
language plpgsql stable as $$
begin
    return (
        select n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
          from pg_namespace n where n.oid = schema
    );
end
$$;

create or replace function keepstream.is_member(catalog oid, id oid) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from pg_depend d where d.classid = catalog and d.objid = id and d.deptype = 'e'
    );
end
$$;

create or replace function keepstream.missing_text(held text) returns text
language plpgsql immutable as $$
begin
    return case when held like '{"%'
                then regexp_replace(substr(held, 3, length(held) - 4), '\\(.)', '\1', 'g')
                else substr(held, 2, length(held) - 2) end;
end
$$;

create or replace function keepstream.describe_common(
    schema oid, name name, owner oid, acl aclitem[], comment text
) returns jsonb
language plpgsql stable as $$
begin
    return jsonb_build_object(
        'schema', schema::bigint, 'name', name,
        'owner', pg_get_userbyid(owner), 'acl', to_jsonb(acl::text[]), 'comment', comment);
end
$$;

-- Privileges on single columns, and on the sequences of identity columns; null for none.
create or replace function keepstream.describe_part_acl(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_agg(p.part order by p.num, p.is_sequence)
          from (
            select a.attnum as num, false as is_sequence,
                   jsonb_build_object('num', a.attnum, 'acl', to_jsonb(a.attacl::text[])) as part
              from pg_attribute a
             where a.attrelid = id and a.attnum > 0 and a.attacl is not null and not a.attisdropped
            union all
            select a.attnum, true, jsonb_build_object('num', a.attnum,
                       'sequence', jsonb_build_array(n.nspname, c.relname), 'acl', to_jsonb(c.relacl::text[]))
              from pg_attribute a
              join pg_depend d
                on d.refclassid = 'pg_class'::regclass and d.refobjid = id and d.refobjsubid = a.attnum
               and d.classid = 'pg_class'::regclass and d.deptype = 'i'
              join pg_class c on c.oid = d.objid
              join pg_namespace n on n.oid = c.relnamespace
             where a.attrelid = id and a.attnum > 0 and a.attidentity <> '' and c.relacl is not null
          ) p
    );
end
$$;

create or replace function keepstream.identity_options(id oid, num smallint) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object(
                   'start', q.seqstart, 'increment', q.seqincrement, 'min', q.seqmin, 'max', q.seqmax,
                   'cache', q.seqcache, 'cycle', q.seqcycle,
                   'sequence', jsonb_build_array(n.nspname, c.relname))
          from pg_depend p
          join pg_sequence q on q.seqrelid = p.objid
          join pg_class c on c.oid = p.objid
          join pg_namespace n on n.oid = c.relnamespace
         where p.refclassid = 'pg_class'::regclass and p.refobjid = id and p.refobjsubid = num
           and p.classid = 'pg_class'::regclass and p.deptype = 'i'
    );
end
$$;

create or replace function keepstream.describe_columns(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'num', a.attnum, 'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
            'type_oid', a.atttypid::bigint, 'typmod', a.atttypmod,
            'collation', case when a.attcollation <> t.typcollation then (
                select format('%I.%I', n.nspname, o.collname)
                  from pg_collation o join pg_namespace n on n.oid = o.collnamespace
                 where o.oid = a.attcollation) end,
            'not_null', a.attnotnull, 'default', pg_get_expr(d.adbin, d.adrelid),
            'identity', a.attidentity::text,
            'identity_options', case when a.attidentity <> '' then
                keepstream.identity_options(a.attrelid, a.attnum) end,
            'generated', a.attgenerated::text, 'storage', a.attstorage::text,
            'compression', a.attcompression::text, 'statistics', nullif(a.attstattarget, -1),
            'options', to_jsonb(a.attoptions),
            'missing', keepstream.missing_text(a.attmissingval::text), 'has_missing', a.atthasmissing,
            'local', a.attislocal, 'inherited', a.attinhcount,
            'comment', col_description(a.attrelid, a.attnum)
        ) order by a.attnum), '[]')
          from pg_attribute a
          join pg_type t on t.oid = a.atttypid
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attrelid = id and a.attnum > 0 and not a.attisdropped
    );
end
$$;

-- Of a key to a partitioned table, PostgreSQL keeps one more on the same table for each partition.
create or replace function keepstream.describe_constraints(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'oid', c.oid::bigint, 'name', c.conname, 'type', c.contype::text,
            'def', pg_get_constraintdef(c.oid), 'validated', c.convalidated, 'local', c.conislocal,
            'inherited', c.coninhcount, 'parent', c.conparentid::bigint,
            'index', case when c.contype in ('p', 'u', 'x') then c.conindid::bigint else 0 end,
            'references', case when c.contype = 'f' then (
                select jsonb_build_array(n.nspname, r.relname)
                  from pg_class r join pg_namespace n on n.oid = r.relnamespace
                 where r.oid = c.confrelid) end,
            'enforced', c.contype not in ('c', 'f')
                or coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true),
            'comment', obj_description(c.oid, 'pg_constraint')
        ) order by c.oid), '[]')
          from pg_constraint c
         where c.conrelid = id and c.contype <> 't'
           and not exists (select from pg_constraint p where p.oid = c.conparentid and p.conrelid = id)
    );
end
$$;

-- PostgreSQL opens the table to write an index's expressions, which waits for whoever alters it: then what is
-- known stands, with the index's name of now.
create or replace function keepstream.index_definition(id oid) returns text
language plpgsql stable as $$
declare
    held jsonb;
begin
    return pg_get_indexdef(id);
exception when lock_not_available then
    select s.state into held from keepstream.schema_state s where s.class = 'index' and s.oid = id;
    return replace(held ->> 'def', format('INDEX %I ON', held ->> 'name'),
        format('INDEX %I ON', (select c.relname from pg_class c where c.oid = id)));
end
$$;

create or replace function keepstream.describe_index(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object(
            'oid', i.indexrelid::bigint, 'name', c.relname, 'def', keepstream.index_definition(i.indexrelid),
            'unique', i.indisunique, 'primary', i.indisprimary,
            'constraint', exists (
                select from pg_constraint k
                 where k.conrelid = i.indrelid and k.conindid = i.indexrelid
                   and k.contype in ('p', 'u', 'x')),
            'valid', i.indisvalid,
            'parent', coalesce(
                (select h.inhparent from pg_inherits h where h.inhrelid = i.indexrelid), 0)::bigint,
            'parent_name', (
                select jsonb_build_array(n.nspname, p.relname)
                  from pg_inherits h
                  join pg_class p on p.oid = h.inhparent
                  join pg_namespace n on n.oid = p.relnamespace
                 where h.inhrelid = i.indexrelid),
            'replica_identity', i.indisreplident, 'clustered', i.indisclustered,
            'statistics', (
                select jsonb_agg(jsonb_build_array(a.attnum, a.attstattarget) order by a.attnum)
                  from pg_attribute a where a.attrelid = i.indexrelid and a.attstattarget >= 0),
            'comment', obj_description(i.indexrelid, 'pg_class'))
          from pg_index i
          join pg_class c on c.oid = i.indexrelid
         where i.indexrelid = id
    );
end
$$;

create or replace function keepstream.describe_indexes(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(keepstream.describe_index(i.indexrelid) order by i.indexrelid), '[]')
          from pg_index i where i.indrelid = id
    );
end
$$;

create or replace function keepstream.describe_triggers(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'oid', t.oid::bigint, 'name', t.tgname, 'def', pg_get_triggerdef(t.oid),
            'enabled', t.tgenabled::text, 'function', jsonb_build_array(n.nspname, p.proname),
            'parent', t.tgparentid::bigint, 'comment', obj_description(t.oid, 'pg_trigger')
        ) order by t.oid), '[]')
          from pg_trigger t
          join pg_proc p on p.oid = t.tgfoid
          join pg_namespace n on n.oid = p.pronamespace
         where t.tgrelid = id and not t.tgisinternal
    );
end
$$;

-- What was known of a relation's rules or policies. They may be about other relations, which PostgreSQL opens to
-- write them, and waits for whoever alters one; whoever makes a rule or policy has opened them already.
create or replace function keepstream.known_members(id oid, kind text, names text[]) returns jsonb
language plpgsql stable as $$
declare
    known jsonb := (
        select s.state -> kind from keepstream.schema_state s
         where s.class in ('table', 'view', 'matview') and s.oid = id);
begin
    if names is distinct from array(
        select m.value ->> 'name' from jsonb_array_elements(known) m order by 1)
    then
        raise exception '% of a relation cannot be read while another session alters what they are about', kind
            using errcode = 'lock_not_available';
    end if;
    return known;
end
$$;

create or replace function keepstream.describe_rules(id oid) returns jsonb
language plpgsql stable as $$
begin
    if not exists (select from pg_rewrite where ev_class = id and rulename <> '_RETURN') then
        return '[]';
    end if;
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'oid', oid::bigint, 'name', rulename, 'def', pg_get_ruledef(oid), 'enabled', ev_enabled::text,
            'comment', obj_description(oid, 'pg_rewrite')
        ) order by oid), '[]')
          from pg_rewrite where ev_class = id and rulename <> '_RETURN'
    );
exception when lock_not_available then
    return keepstream.known_members(id, 'rules', array(
        select r.rulename::text from pg_rewrite r where r.ev_class = id and r.rulename <> '_RETURN'
         order by 1));
end
$$;

create or replace function keepstream.describe_policies(id oid) returns jsonb
language plpgsql stable as $$
begin
    if not exists (select from pg_policy where polrelid = id) then
        return '[]';
    end if;
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'name', p.polname,
            'def', format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s', p.polname, n.nspname, c.relname,
                          case when p.polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
                          case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE'
                                        when 'd' then 'DELETE' else 'ALL' end,
                          (select string_agg(case when r = 0 then 'PUBLIC'
                                                  else quote_ident(pg_get_userbyid(r)) end, ', ' order by r)
                             from unnest(p.polroles) as r))
                   || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
                   || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
            'comment', obj_description(p.oid, 'pg_policy')
        ) order by p.polname), '[]')
          from pg_policy p
          join pg_class c on c.oid = p.polrelid
          join pg_namespace n on n.oid = c.relnamespace
         where p.polrelid = id
    );
exception when lock_not_available then
    return keepstream.known_members(id, 'policies', array(
        select p.polname::text from pg_policy p where p.polrelid = id order by 1));
end
$$;

-- As connectors/postgres/catalog/shape.py reads it.
create or replace function keepstream.describe_shape(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object(
            'filenode', c.relfilenode::bigint, 'natts', c.relnatts,
            'columns', (
                select coalesce(jsonb_agg(jsonb_build_array(
                           a.attnum, a.attname, a.xmin::text, a.atttypid || ':' || a.atttypmod,
                           a.attgenerated <> '', coalesce(d.oid, 0)::bigint, a.atthasmissing
                       ) order by a.attnum), '[]')
                  from pg_attribute a
                  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                 where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped))
          from pg_class c where c.oid = id
    );
end
$$;

create or replace function keepstream.published_by(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(p.pubname order by p.pubname), '[]')
          from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
         where r.prrelid = id
    );
end
$$;

-- Members as they were, with their comments of now, and constraints with their names: ALTER INDEX renames them, too.
create or replace function keepstream.commented(members jsonb, catalog name) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(m.value || jsonb_build_object(
                   'comment', obj_description((m.value ->> 'oid')::oid, catalog),
                   'name', coalesce(k.conname, m.value ->> 'name')) order by m.ordinality), '[]')
          from jsonb_array_elements(members) with ordinality m
          left join pg_constraint k on catalog = 'pg_constraint' and k.oid = (m.value ->> 'oid')::oid
    );
end
$$;

-- A shape with the columns' xmin of now, which GRANT on a column changes; if nothing else is another.
create or replace function keepstream.shape_around(id oid, held jsonb) returns jsonb
language plpgsql stable as $$
declare
    now jsonb := keepstream.describe_shape(id);
begin
    return case when (select jsonb_agg(c.value - 2 order by c.ordinality)
                        from jsonb_array_elements(now -> 'columns') with ordinality c)
                 is not distinct from
                     (select jsonb_agg(c.value - 2 order by c.ordinality)
                        from jsonb_array_elements(held -> 'columns') with ordinality c)
                then held || jsonb_build_object('columns', now -> 'columns') else held end;
end
$$;

-- Of a table that the command has not locked: of it only that can be another than it was (`held`) which PostgreSQL
-- changes without a lock on it. Nothing is read here that would wait for whoever alters the table.
create or replace function keepstream.describe_around(id oid, held jsonb) returns jsonb
language plpgsql stable
set lock_timeout = '20ms'
as $$
begin
    return (
        select held || jsonb_build_object(
            'acl', to_jsonb(c.relacl::text[]), 'published', keepstream.published_by(c.oid),
            'part_acl', keepstream.describe_part_acl(c.oid),
            'shape', keepstream.shape_around(c.oid, held -> 'shape'),
            'indexes', keepstream.describe_indexes(c.oid),
            'constraints', keepstream.commented(held -> 'constraints', 'pg_constraint'),
            'triggers', keepstream.commented(held -> 'triggers', 'pg_trigger'),
            'columns', (
                select coalesce(jsonb_agg(case when m.value ->> 'identity' = '' then m.value
                           else m.value || jsonb_build_object('identity_options',
                               keepstream.identity_options(c.oid, (m.value ->> 'num')::smallint))
                           end order by m.ordinality), '[]')
                  from jsonb_array_elements(held -> 'columns') with ordinality m))
          from pg_class c
         where c.oid = id
    );
end
$$;

create or replace function keepstream.describe_table(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   c.relnamespace, c.relname, c.relowner, c.relacl, obj_description(c.oid, 'pg_class'))
            || jsonb_build_object(
            'kind', c.relkind::text, 'persistence', c.relpersistence::text,
            'part_acl', keepstream.describe_part_acl(c.oid),
            'columns', keepstream.describe_columns(c.oid),
            'constraints', keepstream.describe_constraints(c.oid),
            'indexes', keepstream.describe_indexes(c.oid),
            'triggers', keepstream.describe_triggers(c.oid),
            'rules', keepstream.describe_rules(c.oid),
            'policies', keepstream.describe_policies(c.oid),
            'row_security', c.relrowsecurity, 'force_row_security', c.relforcerowsecurity,
            'replica_identity', c.relreplident::text,
            'partition_of', case when c.relispartition then (
                select h.inhparent::bigint from pg_inherits h where h.inhrelid = c.oid) end,
            'partition_bound', pg_get_expr(c.relpartbound, c.oid),
            'partition_key', case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end,
            'inherits', case when c.relispartition then '[]' else (
                select coalesce(jsonb_agg(h.inhparent::bigint order by h.inhseqno), '[]')
                  from pg_inherits h where h.inhrelid = c.oid) end,
            'options', to_jsonb(c.reloptions),
            'access_method', (select m.amname from pg_am m where m.oid = c.relam),
            'of_type', case when c.reloftype <> 0 then format_type(c.reloftype, null) end,
            'shape', keepstream.describe_shape(c.oid),
            'published', keepstream.published_by(c.oid))
          from pg_class c
         where c.oid = id and c.relkind in ('r', 'p') and c.relpersistence <> 't'
           and keepstream.follows_schema(c.relnamespace)
           and not keepstream.is_member('pg_class'::regclass::oid, c.oid)
    );
end
$$;

-- What a view is made of may be locked by whoever alters it. Whoever made the view has opened that already: for all
-- others what is known stands.
create or replace function keepstream.view_definition(id oid) returns text
language plpgsql stable as $$
begin
    return pg_get_viewdef(id);
exception when lock_not_available then
    return (select s.state ->> 'def' from keepstream.schema_state s
             where s.class in ('view', 'matview') and s.oid = id);
end
$$;

-- What its definition does not say.
create or replace function keepstream.describe_view_columns(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'name', a.attname, 'type_oid', a.atttypid::bigint, 'default', pg_get_expr(d.adbin, d.adrelid),
            'storage', a.attstorage::text, 'compression', a.attcompression::text,
            'statistics', nullif(a.attstattarget, -1), 'options', to_jsonb(a.attoptions),
            'comment', col_description(a.attrelid, a.attnum)
        ) order by a.attnum), '[]')
          from pg_attribute a
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attrelid = id and a.attnum > 0 and not a.attisdropped
    );
end
$$;

create or replace function keepstream.describe_view(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   c.relnamespace, c.relname, c.relowner, c.relacl, obj_description(c.oid, 'pg_class'))
            || jsonb_build_object(
            'def', keepstream.view_definition(c.oid),
            'part_acl', keepstream.describe_part_acl(c.oid),
            'columns', (
                select coalesce(jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod))
                                          order by a.attnum), '[]')
                  from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
            'column_details', keepstream.describe_view_columns(c.oid),
            'options', to_jsonb(c.reloptions),
            'indexes', keepstream.describe_indexes(c.oid),
            'triggers', keepstream.describe_triggers(c.oid),
            'rules', keepstream.describe_rules(c.oid),
            'populated', c.relispopulated)
          from pg_class c
         where c.oid = id and c.relkind in ('v', 'm') and c.relpersistence <> 't'
           and keepstream.follows_schema(c.relnamespace)
           and not keepstream.is_member('pg_class'::regclass::oid, c.oid)
    );
end
$$;

-- The sequence of an identity column belongs to its table's state.
create or replace function keepstream.describe_sequence(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   c.relnamespace, c.relname, c.relowner, c.relacl, obj_description(c.oid, 'pg_class'))
            || jsonb_build_object(
            'type', format_type(s.seqtypid, null), 'start', s.seqstart, 'increment', s.seqincrement,
            'min', s.seqmin, 'max', s.seqmax, 'cache', s.seqcache, 'cycle', s.seqcycle,
            'persistence', c.relpersistence::text,
            'owned_by', (
                select jsonb_build_array(d.refobjid::bigint, d.refobjsubid)
                  from pg_depend d
                 where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'a'
                   and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0))
          from pg_class c
          join pg_sequence s on s.seqrelid = c.oid
         where c.oid = id and c.relpersistence <> 't' and keepstream.follows_schema(c.relnamespace)
           and not exists (select from pg_depend d
                            where d.classid = 'pg_class'::regclass and d.objid = c.oid
                              and d.deptype in ('i', 'e'))
    );
end
$$;

create or replace function keepstream.describe_composite(relation oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object('natts', c.relnatts, 'attributes', coalesce(jsonb_agg(jsonb_build_object(
                   'num', a.attnum, 'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                   'type_oid', a.atttypid::bigint, 'typmod', a.atttypmod,
                   'collation', case when a.attcollation <> t.typcollation then (
                       select format('%I.%I', n.nspname, o.collname)
                         from pg_collation o join pg_namespace n on n.oid = o.collnamespace
                        where o.oid = a.attcollation) end,
                   'comment', col_description(a.attrelid, a.attnum)
               ) order by a.attnum) filter (where a.attnum is not null), '[]'))
          from pg_class c
          left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          left join pg_type t on t.oid = a.atttypid
         where c.oid = relation and c.relkind = 'c'
         group by c.oid, c.relnatts
    );
end
$$;

create or replace function keepstream.describe_domain(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object(
            'base', format_type(t.typbasetype, t.typtypmod),
            'collation', case when t.typcollation <> b.typcollation then (
                select format('%I.%I', n.nspname, o.collname)
                  from pg_collation o join pg_namespace n on n.oid = o.collnamespace
                 where o.oid = t.typcollation) end,
            'not_null', t.typnotnull, 'default', pg_get_expr(t.typdefaultbin, 0),
            'constraints', (
                select coalesce(jsonb_agg(jsonb_build_object(
                           'oid', c.oid::bigint, 'name', c.conname, 'def', pg_get_constraintdef(c.oid),
                           'validated', c.convalidated, 'comment', obj_description(c.oid, 'pg_constraint'))
                           order by c.oid), '[]')
                  from pg_constraint c where c.contypid = t.oid))
          from pg_type t join pg_type b on b.oid = t.typbasetype
         where t.oid = id
    );
end
$$;

create or replace function keepstream.describe_range(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object('def', concat_ws(', ',
            'subtype = ' || format_type(r.rngsubtype, null),
            'subtype_opclass = ' || (
                select format('%I.%I', n.nspname, o.opcname)
                  from pg_opclass o join pg_namespace n on n.oid = o.opcnamespace where o.oid = r.rngsubopc),
            'collation = ' || (
                select format('%I.%I', n.nspname, o.collname)
                  from pg_collation o join pg_namespace n on n.oid = o.collnamespace
                 where o.oid = r.rngcollation),
            'canonical = ' || nullif(r.rngcanonical::regproc::text, '-'),
            'subtype_diff = ' || nullif(r.rngsubdiff::regproc::text, '-'),
            'multirange_type_name = ' || (
                select format('%I.%I', n.nspname, m.typname)
                  from pg_type m join pg_namespace n on n.oid = m.typnamespace
                 where m.oid = r.rngmultitypid)),
            'multirange', (select m.typname from pg_type m where m.oid = r.rngmultitypid))
          from pg_range r where r.rngtypid = id
    );
end
$$;

-- Of `class` enum, domain, composite and range.
create or replace function keepstream.describe_type(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   t.typnamespace, t.typname, t.typowner, t.typacl,
                   coalesce(obj_description(t.oid, 'pg_type'),
                            obj_description(nullif(t.typrelid, 0), 'pg_class')))
            || case t.typtype
                   when 'e' then jsonb_build_object('labels', (
                       select coalesce(jsonb_agg(jsonb_build_array(e.oid::bigint, e.enumlabel)
                                                 order by e.enumsortorder), '[]')
                         from pg_enum e where e.enumtypid = t.oid))
                   when 'd' then keepstream.describe_domain(t.oid)
                   when 'c' then keepstream.describe_composite(t.typrelid)
                   when 'r' then keepstream.describe_range(t.oid)
               end
          from pg_type t
         where t.oid = id and keepstream.follows_schema(t.typnamespace)
           and not keepstream.is_member('pg_type'::regclass::oid, t.oid)
    );
end
$$;

create or replace function keepstream.describe_function(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   p.pronamespace, p.proname, p.proowner, p.proacl, obj_description(p.oid, 'pg_proc'))
            || jsonb_build_object(
            'arguments', pg_get_function_identity_arguments(p.oid), 'kind', p.prokind::text,
            'def', pg_get_functiondef(p.oid), 'returns', pg_get_function_result(p.oid))
          from pg_proc p
         where p.oid = id and p.prokind <> 'a' and keepstream.follows_schema(p.pronamespace)
           and not keepstream.is_member('pg_proc'::regclass::oid, p.oid)
    );
end
$$;

create or replace function keepstream.describe_schema(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   n.oid, n.nspname, n.nspowner, n.nspacl, obj_description(n.oid, 'pg_namespace'))
          from pg_namespace n
         where n.oid = id and keepstream.follows_schema(n.oid)
           and not keepstream.is_member('pg_namespace'::regclass::oid, n.oid)
    );
end
$$;

create or replace function keepstream.describe_extension(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   e.extnamespace, e.extname, e.extowner, null::aclitem[],
                   obj_description(e.oid, 'pg_extension'))
            || jsonb_build_object('version', e.extversion)
          from pg_extension e where e.oid = id
    );
end
$$;

create or replace function keepstream.describe_default_acl(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select keepstream.describe_common(
                   d.defaclnamespace, pg_get_userbyid(d.defaclrole), d.defaclrole, d.defaclacl, null)
            || jsonb_build_object('objects', case d.defaclobjtype
                   when 'r' then 'table' when 'S' then 'sequence' when 'f' then 'function'
                   when 'T' then 'type' when 'n' then 'schema' else d.defaclobjtype::text end)
          from pg_default_acl d
         where d.oid = id and (d.defaclnamespace = 0 or keepstream.follows_schema(d.defaclnamespace))
    );
end
$$;

-- A lock that the command itself needs not is not waited for: who waits here holds what the command has locked.
create or replace function keepstream.describe(class text, id oid) returns jsonb
language plpgsql stable
set lock_timeout = '20ms'
as $$
begin
    return case class
        when 'table' then keepstream.describe_table(id)
        when 'view' then keepstream.describe_view(id)
        when 'matview' then keepstream.describe_view(id)
        when 'sequence' then keepstream.describe_sequence(id)
        when 'function' then keepstream.describe_function(id)
        when 'schema' then keepstream.describe_schema(id)
        when 'extension' then keepstream.describe_extension(id)
        when 'default_acl' then keepstream.describe_default_acl(id)
        else keepstream.describe_type(id)
    end;
end
$$;

create or replace function keepstream.schema_name(id oid) returns text
language plpgsql stable as $$
begin
    return coalesce((select n.nspname from pg_namespace n where n.oid = id),
        (select s.state ->> 'name' from keepstream.schema_state s where s.class = 'schema' and s.oid = id));
end
$$;

create or replace function keepstream.relation_name(id oid) returns jsonb
language plpgsql stable as $$
begin
    return (select jsonb_build_array(n.nspname, c.relname)
              from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = id);
end
$$;

-- A state as messages have it: with names of now instead of other objects' OIDs.
create or replace function keepstream.named(state jsonb) returns jsonb
language plpgsql stable as $$
begin
    if jsonb_typeof(state -> 'schema') is distinct from 'number' then
        return state;
    end if;
    return state || jsonb_build_object(
            'schema', keepstream.schema_name((state ->> 'schema')::oid), 'schema_oid', state -> 'schema')
        || case when state ? 'inherits' then jsonb_build_object(
               'partition_of', keepstream.relation_name((state ->> 'partition_of')::oid),
               'inherits', (
                   select coalesce(jsonb_agg(keepstream.relation_name(p.value::oid) order by p.ordinality), '[]')
                     from jsonb_array_elements_text(state -> 'inherits') with ordinality p))
               else '{}' end
        || case when state ? 'owned_by' then jsonb_build_object('owned_by', (
               select keepstream.relation_name(a.attrelid) || to_jsonb(a.attname)
                 from pg_attribute a
                where a.attrelid = (state -> 'owned_by' ->> 0)::oid
                  and a.attnum = (state -> 'owned_by' ->> 1)::smallint))
               else '{}' end;
end
$$;

-- Which class an object is of, and whose state it belongs to: (class, oid), or null for what is none's.
create or replace function keepstream.class_of_relation(id oid, out class text, out subject oid)
language plpgsql stable as $$
begin
    select case c.relkind
               when 'r' then 'table' when 'p' then 'table' when 'v' then 'view' when 'm' then 'matview'
               when 'S' then 'sequence' when 'c' then 'composite' when 'f' then 'other' end,
           case c.relkind when 'c' then c.reltype else c.oid end
      into class, subject
      from pg_class c where c.oid = id;
end
$$;
