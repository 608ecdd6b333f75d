-- The rows of a table that a command rewrote, so that values may be others than before.

-- A partition whose rows come under the name of a table above it.
create or replace function keepstream.is_of_whole(id oid) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from pg_partition_ancestors(id) a
          join pg_publication_rel r on r.prrelid = a.relid
          join pg_publication p on p.oid = r.prpubid
         where p.pubviaroot and a.relid <> id);
end
$$;

create or replace function keepstream.is_published(id oid) returns boolean
language plpgsql stable as $$
begin
    return exists (select from pg_publication_rel r where r.prrelid = id)
        or keepstream.is_of_whole(id)
        or exists (select from pg_publication p where p.puballtables)
        or exists (select from pg_publication_namespace n join pg_class c on c.relnamespace = n.pnnspid
                    where c.oid = id);
end
$$;

-- `sent`: of each record, for each publication in `filters`, whether that sends it: 1 or 0.
create or replace function keepstream.emit_records(
    head text, records text[], sent text[], is_first boolean, is_last boolean
) returns void
language plpgsql volatile as $$
begin
    perform keepstream.emit(format(
        '{"rows": %s, "first": %s, "last": %s, "sent": %s, "records": %s}}',
        rtrim(head, '}'), is_first::text, is_last::text, to_json(sent), to_json(records)));
end
$$;

-- The row filters on the table: names of their publications, and one expression that has a digit for each, or null.
create or replace function keepstream.row_filters(id oid, out publications jsonb, out digits text)
language plpgsql stable as $$
begin
    select coalesce(jsonb_agg(p.pubname order by p.oid), '[]'),
           coalesce(string_agg(format('case when %s then ''1'' else ''0'' end', pg_get_expr(r.prqual, id)),
                               ' || ' order by p.oid), 'null::text')
      into publications, digits
      from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
     where r.prrelid = id and r.prqual is not null;
end
$$;

-- All rows, as record_out writes them, in messages of about a MiB. `ends`: no others follow for the same change.
create or replace function keepstream.emit_part(id oid, ends boolean) returns void
language plpgsql volatile as $$
declare
    columns text;
    head text;
    qualified text;
    records text[] := '{}';
    size_bytes bigint := 0;
    is_first boolean := true;
    record_text text;
    sent text[] := '{}';
    sent_by text;
    filters record;
begin
    filters := keepstream.row_filters(id);
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum),
           format('%I.%I', min(n.nspname), min(c.relname)),
           jsonb_build_object('oid', c.oid::bigint, 'schema', min(n.nspname), 'table', min(c.relname),
               'filters', filters.publications,
               'columns', coalesce(
                   jsonb_agg(a.attname order by a.attnum) filter (where a.attnum is not null), '[]'))
      into columns, qualified, head
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      left join pg_attribute a
        on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
     where c.oid = id
     group by c.oid;
    for record_text, sent_by in execute format(
        'select row(%s)::text, %s from only %s', columns, filters.digits, qualified)
    loop
        if size_bytes + octet_length(record_text) > 1000000 and size_bytes > 0 then
            perform keepstream.emit_records(head, records, sent, is_first, false);
            records := '{}';
            sent := '{}';
            size_bytes := 0;
            is_first := false;
        end if;
        records := records || record_text;
        if sent_by is not null then
            sent := sent || sent_by;
        end if;
        size_bytes := size_bytes + octet_length(record_text);
    end loop;
    perform keepstream.emit_records(head, records, sent, is_first, ends);
end
$$;

-- Those of a partitioned table are its partitions'.
create or replace function keepstream.emit_rows(id oid) returns void
language plpgsql volatile as $$
declare
    leaf oid;
begin
    for leaf in
        select t.relid from pg_partition_tree(id) t join pg_class c on c.oid = t.relid
         where t.relid <> id and c.relkind = 'r' order by t.level, t.relid
    loop
        perform keepstream.emit_part(leaf, false);
    end loop;
    perform keepstream.emit_part(id, true);
end
$$;

-- Whether the change makes rows part of the whole that were none of it.
create or replace function keepstream.brings_rows(change jsonb) returns boolean
language plpgsql stable as $$
begin
    return change ->> 'class' = 'table'
       and change -> 'before' ->> 'partition_of' is null
       and change -> 'after' ->> 'partition_of' is not null
       and change -> 'before' ->> 'kind' in ('r', 'p')
       and keepstream.is_of_whole((change ->> 'oid')::oid);
end
$$;

-- Whether partitions come to a whole, or leave one, with the table that they belong to.
create or replace function keepstream.moves_tree(change jsonb) returns boolean
language plpgsql immutable as $$
begin
    return change ->> 'class' = 'table'
       and change -> 'before' ->> 'kind' = 'p' and change -> 'after' ->> 'kind' = 'p'
       and change -> 'before' -> 'partition_of' is distinct from change -> 'after' -> 'partition_of';
end
$$;

-- What is below these tables and not among the changes, as it is: for those who do not know it.
create or replace function keepstream.below(tables oid[], changes jsonb[]) returns jsonb[]
language plpgsql stable as $$
begin
    return array(
        select jsonb_build_object('class', 'table', 'oid', t.relid::oid::bigint, 'before', d.state, 'after', d.state)
          from unnest(tables) moved cross join lateral pg_partition_tree(moved) t
         cross join lateral (select keepstream.named(keepstream.describe('table', t.relid)) as state) d
         where t.relid <> moved and not exists (
               select from unnest(changes) c
                where c ->> 'class' = 'table' and (c ->> 'oid')::bigint = t.relid::oid::bigint)
         order by t.level, t.relid);
end
$$;

-- Whether rows of a rewritten table follow: sent, too-large, or unpublished.
create or replace function keepstream.rows_verdict(id oid) returns text
language plpgsql stable as $$
begin
    return case
        when not keepstream.is_published(id) then 'unpublished'
        when pg_table_size(id) + coalesce((
                 select sum(pg_table_size(t.relid)) from pg_partition_tree(id) t where t.relid <> id), 0)
             > (select s.max_rows_bytes from keepstream.schema_settings s) then 'too-large'
        else 'sent'
    end;
end
$$;
