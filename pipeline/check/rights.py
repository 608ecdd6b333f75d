"""Owners and privileges that a replica is to follow: are the roles there, is anybody told of changes?"""

from __future__ import annotations

from collections.abc import Iterator

from connectors.postgres.ddl import rights_now
from connectors.postgres.ddl.follow import Policies
from connectors.postgres.ddl.rights import lacking
from connectors.postgres.ddl.rights_now import Rights
from connectors.postgres.session import Session, wrapped
from pipeline.check.findings import Place, named
from schemas.finding import Finding

_SUBJECT = "owners and privileges"


def check_rights(
    session: Session, place: Place, role: str, there: Rights, policies: Policies, *, told: bool
) -> Iterator[Finding]:
    """`session`: on the replica, as `role`. `there`: on the source, whose event triggers tell if `told`.

    None of its errors keeps stages from running: copy and apply wait for roles, and go on by themselves.
    """
    if not rights_now.wanted(policies):
        return
    steps = rights_now.making(there, policies)
    owners = {step.member_of for step in steps if step.member_of}
    with wrapped("looking for roles on the replica"):
        found = lacking(session, {name for step in steps for name in step.roles}, owners)
    if found.missing:
        yield place.error(
            "role-missing",
            _SUBJECT,
            f"lacks roles that own or may use objects on the source: {named(found.missing)}",
            sql=found.creating(),
            blocks=False,
        )
    if found.foreign:
        yield place.error(
            "role-not-granted",
            _SUBJECT,
            f"{role} is no member of roles that own objects on the source: {named(found.foreign)}",
            sql=found.granting(role),
            blocks=False,
        )
    if found.superusers:
        yield place.note(
            "owner-superuser",
            _SUBJECT,
            f"what belongs to {named(found.superusers)} on the source stays {role}'s, which is to be no"
            " member of a superuser",
        )
    if not told:
        yield place.warning(
            "rights-untold",
            _SUBJECT,
            "come with the first copy and with a table that joins: without event triggers on the source"
            " nothing tells of changes",
            fix="Run `keepstream schema install`.",
        )
    elif not (found.missing or found.foreign):
        yield place.ok("rights", _SUBJECT, "are followed, and all roles are there")
