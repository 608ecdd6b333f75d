"""Privileges as PostgreSQL keeps them (aclitem), and what leads from some of them to others.

Each is given by a role that may give it: the owner, or one that holds it WITH GRANT OPTION. Who loses that
option takes along what it has given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

PUBLIC: Final = ""
_ITEM: Final = re.compile(
    r'(?:"((?:[^"]|"")*)"|([^"=]*))=([A-Za-z*]*)/(?:"((?:[^"]|"")*)"|([^"]*))', re.DOTALL
)
_LETTER: Final = re.compile(r"([A-Za-z])(\*?)")
_FURTHEST: Final = 1_000_000

WORDS: Final = {
    "r": "select",
    "a": "insert",
    "w": "update",
    "d": "delete",
    "D": "truncate",
    "x": "references",
    "t": "trigger",
    "m": "maintain",
    "X": "execute",
    "U": "usage",
    "C": "create",
}
_MAINTAIN: Final = "m"  # of servers since 17
_OWNERS: Final = {"table": "arwdDxtm", "sequence": "rwU", "function": "X", "schema": "UC", "type": "U"}
_EVERYBODYS: Final = {"function": "X", "type": "U"}


class Held(NamedTuple):
    """One privilege, by its letter, of a role (PUBLIC: of everybody), and who gave it."""

    grantor: str
    grantee: str
    privilege: str


Acl = Mapping[Held, bool]
"""What is held, and whether WITH GRANT OPTION."""


@dataclass(frozen=True, slots=True)
class Act:
    """A GRANT or REVOKE. option: WITH GRANT OPTION, or GRANT OPTION FOR."""

    gives: bool
    grantor: str
    grantee: str
    privileges: tuple[str, ...]
    option: bool

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(WORDS[letter] for letter in self.privileges)


def parse_acl(items: Iterable[str]) -> Acl:
    """Of aclitems as PostgreSQL writes them (`aclitemout`). Raises ValueError."""
    found: dict[Held, bool] = {}
    for item in items:
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError("a privilege is not understood")
        grantee, grantor = _role(match[1], match[2]), _role(match[4], match[5])
        for letter, star in _LETTER.findall(match[3]):
            if letter in WORDS:
                found[Held(grantor, grantee, letter)] = bool(star)
    return found


def _role(quoted: str | None, plain: str | None) -> str:
    return quoted.replace('""', '"') if quoted is not None else plain or ""


def default_acl(class_: str, owner: str, like: Iterable[Held]) -> Acl:
    """What an object has to which nobody gave or took anything. `like`: of the same server, which may be one
    that does not know MAINTAIN."""
    knows_maintain = any(held.privilege == _MAINTAIN for held in like)
    letters = [letter for letter in _OWNERS[class_] if letter != _MAINTAIN or knows_maintain]
    owners = {Held(owner, owner, letter): False for letter in letters}
    return owners | {Held(owner, PUBLIC, letter): False for letter in _EVERYBODYS.get(class_, "")}


def owned_by(acl: Acl, *, was: str, now: str) -> Acl:
    """As ALTER … OWNER TO leaves it: the new owner takes the old one's place."""
    found: dict[Held, bool] = {}
    for held, option in acl.items():
        grantor, grantee = (now if role == was else role for role in held[:2])
        taken = Held(grantor, grantee, held.privilege)
        found[taken] = found.get(taken, False) or option
    return found


def acts(was: Acl, now: Acl, owner: str) -> Iterator[Act]:
    """From one to the other, in an order in which each grantor may give and take."""
    held = dict(was)
    for grantor, grantee in _pairs(was, owner):
        own = [each for each in held if each[:2] == (grantor, grantee)]
        gone = [each for each in own if each not in now]
        lessened = [each for each in own if each in now and held[each] and not now[each]]
        if gone:
            yield _act(gone, gives=False, option=False)
        if lessened:
            yield _act(lessened, gives=False, option=True)
        for each in gone:
            del held[each]
        for each in lessened:
            held[each] = False
        for each in gone + lessened:
            _take_along(held, each.grantee, each.privilege, owner)
    for grantor, grantee in _pairs(now, owner):
        own = [each for each in now if each[:2] == (grantor, grantee)]
        for option in (False, True):
            new = [e for e in own if now[e] is option and (e not in held or (option and not held[e]))]
            if new:
                yield _act(new, gives=True, option=option)


def _act(held: Sequence[Held], *, gives: bool, option: bool) -> Act:
    letters = sorted((each.privilege for each in held), key=list(WORDS).index)
    return Act(gives, held[0].grantor, held[0].grantee, tuple(letters), option)


def _take_along(held: dict[Held, bool], role: str, privilege: str, owner: str) -> None:
    """REVOKE … CASCADE: what the role has given goes, unless it may still give it."""
    still = any(held[each] for each in held if (each.grantee, each.privilege) == (role, privilege))
    if role in (owner, PUBLIC) or still:
        return
    for each in [e for e in held if (e.grantor, e.privilege) == (role, privilege)]:
        del held[each]
        _take_along(held, each.grantee, privilege, owner)


def _pairs(acl: Acl, owner: str) -> list[tuple[str, str]]:
    """(grantor, grantee) of all, those first that are nearer to the owner."""
    distance = {owner: 0}
    for _ in range(len(acl)):
        further = {
            held.grantee: distance[held.grantor] + 1
            for held, option in acl.items()
            if option and held.grantor in distance and held.grantee not in distance
        }
        if not further:
            break
        distance |= further
    pairs = dict.fromkeys((held.grantor, held.grantee) for held in acl)
    return sorted(pairs, key=lambda pair: (distance.get(pair[0], _FURTHEST), pair))
