"""The servers that tests and `keepstream dev` run on: real, closed to strangers, gone with their owner."""

from __future__ import annotations

import psycopg
import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.fix_postgres import Database


def test_the_product_is_no_superuser_and_may_replicate(source: Database) -> None:
    with psycopg.connect(source.dsn) as connection:
        row = connection.execute("select rolsuper, rolreplication from pg_roles where rolname = current_user")
        assert row.fetchone() == (False, True)


def test_the_product_may_switch_triggers_off_on_the_replica(replica: Database) -> None:
    with psycopg.connect(replica.dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("create table contact (id int primary key)")


def test_a_wrong_password_is_refused(source: Database) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(source.dsn.replace(source.password, "wrong"))


def test_a_topic_can_be_made(kafka_server: str) -> None:
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    try:
        client.create_topics([NewTopic("dev-servers", num_partitions=1, replication_factor=1)])
        assert "dev-servers" in client.list_topics()
    finally:
        client.close()


def test_a_database_with_an_active_slot_and_a_prepared_transaction_is_cleaned_up(source: Database) -> None:
    source.execute("create table contact (id int primary key)")
    source.execute("begin; insert into contact values (1); prepare transaction 'one'")
    source.execute("rollback prepared 'one'")
    with psycopg.connect(source.dsn, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot('cleaned', 'pgoutput')")
    source.execute("begin; insert into contact values (1); prepare transaction 'two'")
