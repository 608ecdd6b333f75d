"""The SQL of `init --grants`: run as it is printed, it leaves `check` nothing to complain about."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import yaml
from psycopg import sql

from pipeline.check import preflight
from pipeline.cli import main
from pipeline.config import load_config
from schemas.finding import Severity
from tests.fix_postgres import Database, psql
from tests.postgres_releases import release

SCHEMA = """
    create schema "Odd.Schema";
    create table customer (id int primary key, name text,
        upper text generated always as (upper(name)) stored);
    create table "Odd.Schema"."Odd ""Table" (id int primary key);
    create table keyless (x int);
    create table full_identity (x int);
    alter table full_identity replica identity full;
    create table generated_full (x int, y int generated always as (x) stored);
    alter table generated_full replica identity full;
    create table parent (id int primary key) partition by range (id);
    create table part partition of parent for values from (0) to (9);
    create table audit_log (id int primary key);
    create unlogged table scratch (id int primary key);
"""
if release("source") >= 18:
    SCHEMA += """
        create table virtual_full (x int, y int generated always as (x) virtual);
        alter table virtual_full replica identity full;
    """
LIMITS = '{public.customer: {columns: [id, name], where: "id > 0 and id <> 7"}}'
PUBLISHED = {"customer", 'Odd "Table', "full_identity", "generated_full", "part"}


@pytest.fixture
def role() -> str:
    """A role that exists on neither server."""
    return f"ks {secrets.token_hex(4)}"


def write_config(path: Path, source: Database, replica: Database, role: str) -> None:
    def conninfo(database: Database) -> str:
        return (
            f"host=127.0.0.1 port={database.server.port} dbname={database.name} user='{role}' password=first"
        )

    path.write_text(
        f'name: crm\nsource: {{url: "{conninfo(source)}", keyless: exclude,'
        f" tables: {{exclude: ['public.audit_*'], limits: {LIMITS}}}}}\nlog: file://{path.parent}/log\n"
        f'replicas: {{standby: "{conninfo(replica)}"}}\n'
    )
    path.chmod(0o600)


def grants(path: Path, server: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["-c", str(path), "init", "--grants", "--for", server]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("publisher", ["superuser", "owner"])
def test_after_the_grants_check_finds_no_error(
    source: Database,
    replica: Database,
    role: str,
    publisher: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source.execute(SCHEMA)
    path = tmp_path / "keepstream.yaml"
    write_config(path, source, replica, role)
    for_source, for_owner = grants(path, "source", capsys).split("\n-- Source ", 1)
    for_replica = grants(path, "standby", capsys)
    for _ in range(2):  # it may be run again
        source.execute_as_admin(for_source)
        as_publisher = source.execute if publisher == "owner" else source.execute_as_admin
        as_publisher(f"-- {for_owner}")
        replica.execute_as_admin(for_replica)
    for database in (source, replica):
        database.execute_as_admin(f"alter role \"{role}\" password 'first'")
    listed = source.execute("select tablename from pg_publication_tables where pubname = 'keepstream_crm'")
    assert {name for (name,) in listed} == PUBLISHED
    limited = "select attnames::text, rowfilter from pg_publication_tables where tablename = 'customer'"
    assert source.execute(limited) == [("{id,name}", "((id > 0) AND (id <> 7))")]
    owner = source.execute("select pg_get_userbyid(pubowner) from pg_publication")
    assert owner == [(source.owner,)]  # so that its rights can be lent when tables are to join
    findings = preflight(load_config(path))
    assert [f for f in findings if f.severity is Severity.ERROR] == []
    assert not [f for f in findings if f.code == "tables-not-published"]


def test_the_grants_publish_partitioned_tables_as_the_file_has_them(
    source: Database, replica: Database, role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.execute(SCHEMA)
    path = tmp_path / "keepstream.yaml"
    write_config(path, source, replica, role)
    path.write_text(path.read_text().replace("keyless: exclude,", "keyless: exclude, partitions: root,"))
    source.execute_as_admin(grants(path, "source", capsys))
    source.execute_as_admin(f"alter role \"{role}\" password 'first'")
    listed = source.execute("select tablename from pg_publication_tables where pubname = 'keepstream_crm'")
    assert {name for (name,) in listed} == PUBLISHED - {"part"} | {"parent"}
    findings = [f.code for f in preflight(load_config(path)) if f.subject == "publication keepstream_crm"]
    assert findings == ["publication"]


def test_the_grants_of_all_servers_change_nothing_where_they_are_piped_into_psql(
    source: Database, replica: Database, role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The replica's would take the database from the application."""
    path = tmp_path / "keepstream.yaml"
    write_config(path, source, replica, role)
    path.write_text(path.read_text().replace(f"dbname={replica.name}", f"dbname={source.name}"))
    assert main(["-c", str(path), "init", "--grants"]) == 0
    printed = capsys.readouterr().out
    assert f'alter database "{source.name}" owner to "{role}";' in printed
    ended = psql(source, printed)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith(
        "Nothing was run: there are several servers."
        " Print the SQL of one: keepstream init --grants --for source or --for standby\n"
    )
    query = "select (select count(*) from pg_roles where rolname = %s), pg_get_userbyid(datdba)"
    (seen,) = source.execute(f"{query} from pg_database where datname = current_database()", [role])
    assert seen[0] == 0
    assert seen[1] != role


def test_the_lent_rights_of_the_owner_let_the_publication_be_made(
    source: Database, replica: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.execute(SCHEMA)
    path = tmp_path / "keepstream.yaml"
    path.write_text(
        f"name: crm\nsource: {{url: '{source.dsn}', keyless: exclude}}\nlog: file://{tmp_path}/log\n"
    )
    assert main(["-c", str(path), "init", "--grants"]) == 0
    printed = capsys.readouterr().out
    lending = printed.split("New tables then join")[1].split("\n")
    statements = [line.removeprefix("--").replace("OWNER_OF_THE_TABLES", source.owner) for line in lending]
    assert len([s for s in statements if s.strip().startswith("grant ")]) == 2
    for statement in statements:
        if statement.strip().startswith("grant "):
            source.execute_as_admin(statement)
    codes = {f.code: f.message for f in preflight(load_config(path))}
    assert codes["publication"] == "will be made, with 6 tables"


def test_names_and_patterns_that_hold_any_quote_are_granted_as_they_are(
    source: Database, replica: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """psql runs what is printed: it has quotes and variables of its own."""
    role = f"$$ks$grants1$ :x %s 'q\" {{y}} {secrets.token_hex(4)}"
    source.execute(
        """create table "a$$b %s" (id int primary key); create table "it's ""$grants1$" (id int primary key);
           create table other (id int primary key)"""
    )
    path = tmp_path / "keepstream.yaml"
    user = role.replace("\\", "\\\\").replace("'", "\\'").replace("$", "$$")

    def conninfo(database: Database) -> str:
        return (
            f"host=127.0.0.1 port={database.server.port} dbname={database.name} user='{user}' password=first"
        )

    settings = {
        "name": "crm",
        "source": {
            "url": conninfo(source),
            "tables": {"include": ['public."a$$$$b %s"', 'public."it\'s ""$$grants1$$"']},
        },
        "log": f"file://{tmp_path}/log",
        "replicas": {"standby": conninfo(replica)},
    }
    path.write_text(yaml.safe_dump(settings))
    path.chmod(0o600)
    for server, database in (("source", source), ("standby", replica)):
        ended = psql(database, grants(path, server, capsys), "-v", "ON_ERROR_STOP=1")
        assert (ended.returncode, ended.stderr) == (0, "")
    literal = sql.Literal(role).as_string()
    for database in (source, replica):
        found = database.execute_as_admin(f"select rolcanlogin from pg_roles where rolname = {literal}")
        assert found == [(True,)]
    listed = source.execute("select tablename from pg_publication_tables order by 1")
    assert [name for (name,) in listed] == ["a$$b %s", "it's \"$grants1$"]
