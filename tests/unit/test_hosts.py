"""A source's connection string of several hosts."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from connectors.postgres.failover.hosts import hosts, to_primary


@pytest.mark.parametrize(
    ("conninfo", "names"),
    [
        ("postgresql://u:p@a:1,b:2/crm", ["a:1", "b:2"]),
        ("host=a,b port=5433 dbname=crm", ["a:5433", "b:5433"]),
        ("host=a,b port=,2", ["a:5432", "b:2"]),
        ("hostaddr=10.0.0.1,10.0.0.2", ["10.0.0.1:5432", "10.0.0.2:5432"]),
        ("postgresql://u@a/crm", ["a:5432"]),
        ("service=crm", ["service crm"]),
        ("host=/var/run/postgresql dbname=crm", ["/var/run/postgresql:5432"]),
    ],
)
def test_each_host_is_named_with_its_port(conninfo: str, names: list[str]) -> None:
    assert [host.name for host in hosts(conninfo)] == names


def test_a_connection_string_for_one_host_is_the_same_but_for_the_others() -> None:
    _, second = hosts("postgresql://u:p@a:1,b:2/crm?sslmode=require&target_session_attrs=read-write")
    assert conninfo_to_dict(second.conninfo) == {
        "user": "u",
        "password": "p",
        "host": "b",
        "port": "2",
        "dbname": "crm",
        "sslmode": "require",
        "target_session_attrs": "any",
    }


def test_of_several_hosts_the_primary_is_meant_unless_something_else_is_said() -> None:
    assert conninfo_to_dict(to_primary("host=a,b"))["target_session_attrs"] == "primary"
    for conninfo in ("host=a", "service=crm", "host=a,b target_session_attrs=read-write"):
        assert to_primary(conninfo) == conninfo
