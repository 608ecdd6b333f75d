"""`check` of a replica that is to follow owners and privileges."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import parse_config
from schemas.finding import Finding
from tests.checking import preflight
from tests.fix_postgres import PRODUCT, Database
from tests.fix_roles import Roles
from tests.tracked import install_triggers

SUBJECT = "owners and privileges"


def test_roles_that_the_replica_lacks_are_named_with_the_sql_that_makes_them(
    roles: Roles, source: Database, replica: Database, tmp_path: Path
) -> None:
    source.execute_as_admin(
        roles.fill(
            "grant all on schema public to <app>; create schema own; set role <app>;"
            " create table t (id int primary key); grant select on t to <reader>"
        )
    )

    def found(**policies: str) -> dict[str, Finding]:
        said = ", ".join(f"{kind}: {policy}" for kind, policy in policies.items())
        config = parse_config(
            f"name: crm\nsource:\n  url: {source.dsn}\nlog: file://{tmp_path}/log\n"
            f"schema: {{policies: {{{said}}}}}\nreplicas:\n  standby: {replica.dsn}\n",
            name="keepstream.yaml",
            environment={},
        )
        return {each.code: each for each in preflight(config) if each.subject == SUBJECT}

    assert found() == {}
    seen = found(owner="apply", grants="apply")
    assert set(seen) == {"rights-untold", "owner-superuser"}
    assert seen["owner-superuser"].message.startswith("what belongs to postgres on the source stays")
    install_triggers(source)
    assert "rights" in found(owner="apply", grants="apply")
    replica.execute_as_admin(roles.fill(f"revoke <app> from {PRODUCT}; drop role <reader>"))
    seen = found(owner="apply", grants="apply")
    assert seen["role-missing"].fix == roles.fill("create role <reader>;")
    assert seen["role-not-granted"].fix == roles.fill(f'grant <app> to "{PRODUCT}";')
    assert not any(each.blocks for each in (seen["role-missing"], seen["role-not-granted"]))
    assert set(found(grants="apply")) == {"role-missing"}
