"""docs/errors.md has every code of the source, once, in the section of who must act, and no other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.errorcodes import CHECK, ROOT_ERROR, STATUS, Codes, read_codes

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "errors.md"

SECTIONS: Final = {
    "The history is broken: exit code 4": ("HistoryBroken", "PlaceTrimmed"),
    "Something has to be mended first: exit code 4": ("OperatorNeeded",),
    "Data that cannot be carried: exit code 4": ("RefusedData",),
    "Replica and log disagree: exit code 6": ("Divergence",),
    "It did not come in time: exit code 7": ("Unhealthy",),
    "A server does not let us in: exit code 5": ("LoginRefused",),
    "keepstream.yaml is wrong: exit code 3": ("ConfigError",),
    "The command line is wrong: exit code 2": ("UsageError",),
    "The results cannot be written: exit code 1": ("OutputFailed",),
    "What `check` finds": (CHECK,),
    "What `status` finds": (STATUS,),
    "It goes away by itself: exit code 5": ("RetryLater",),
    "A bug of ours: exit code 1": ("InternalError",),
}
"""What gives the codes of a section. A code of several stands in the first section, from above, that fits."""
SEVERITIES: Final = ("error", "warning", "note", "ok")


class Row(NamedTuple):
    """Of a table of the page."""

    section: str
    code: str
    cells: tuple[str, ...]


@pytest.fixture(scope="module")
def codes() -> Codes:
    return read_codes(ROOT)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(read_rows(PAGE.read_text(encoding="utf-8")))


def read_rows(page: str) -> Iterator[Row]:
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        found = re.match(r"\| `([a-z0-9-]+)` \| (.*?) ?\|$", line)
        if found and section:
            yield Row(section, found[1], tuple(cell.strip() for cell in found[2].split(" | ")))


def group(codes: Codes, kind: str) -> str:
    """What of SECTIONS a class, or the kind of a finding, counts as."""
    if kind not in codes.exit_codes:
        return kind.split()[0]
    known = {each for kinds in SECTIONS.values() for each in kinds}
    while kind not in known and kind != ROOT_ERROR:
        kind = codes.parents[kind]
    return kind


def section_of(codes: Codes, code: str) -> str:
    groups = {group(codes, kind) for kind in codes.kinds[code]}
    return next((section for section, kinds in SECTIONS.items() if groups.intersection(kinds)), "no section")


def exit_codes(codes: Codes, code: str) -> set[int]:
    """With which a command ends that says it; what is only found by `status` or is no error ends none."""
    return {
        4 if kind == f"{CHECK} error" else codes.exit_codes[kind]
        for kind in codes.kinds[code]
        if kind == f"{CHECK} error" or kind in codes.exit_codes
    }


def faults_of(codes: Codes, rows: Iterable[Row]) -> Iterator[str]:
    """Everything in which page and source differ, each with what mends it."""
    seen: set[str] = set()
    for row in rows:
        if row.code not in codes.kinds:
            yield f"remove the row of `{row.code}`: nothing gives that code any more"
            continue
        if row.code in seen:
            yield f"remove one row of `{row.code}`: it stands there twice"
        seen.add(row.code)
        yield from _faults_of_row(codes, row)
    for code in sorted(codes.kinds.keys() - seen):
        yield (
            f"add a row for `{code}` under '## {section_of(codes, code)}':"
            f" {', '.join(sorted(codes.kinds[code]))} at {codes.places(code)}"
        )


def _faults_of_row(codes: Codes, row: Row) -> Iterator[str]:
    right, kinds = section_of(codes, row.code), codes.kinds[row.code]
    told = f"{', '.join(sorted(kinds))} at {codes.places(row.code)}"
    if row.section != right:
        yield f"move `{row.code}` from '## {row.section}' to '## {right}': {told}"
        return
    if CHECK in SECTIONS[right]:
        found = [each for each in SEVERITIES if f"{CHECK} {each}" in kinds]
        if sorted(re.findall(r"\w+", row.cells[0].replace(" or ", " "))) != sorted(found):
            yield f"the severity of `{row.code}` is {' or '.join(found)}, not {row.cells[0]}: {told}"
    at_home = re.search(r"exit code (\d)", right)
    for other in sorted(exit_codes(codes, row.code) - {int(at_home[1]) if at_home else 4}):
        if f"xit code {other}" not in " ".join(row.cells):
            yield f"say in the row of `{row.code}` when it ends with exit code {other}: {told}"


def test_every_code_stands_in_the_document_once_under_who_must_act_and_no_other_does(
    codes: Codes, rows: list[Row]
) -> None:
    faults = list(faults_of(codes, rows))
    assert not faults, "docs/errors.md:\n" + "\n".join(faults)


def test_no_place_gives_a_code_that_cannot_be_told(codes: Codes) -> None:
    """It would be missing from the document unseen."""
    unread = "\n".join(codes.unread)
    assert not unread, f"write the code literally, or teach tests/errorcodes.py to read:\n{unread}"
    unclassed = sorted(code for code, kinds in codes.kinds.items() if not kinds)
    assert not unclassed, f"tests/errorcodes.py cannot tell what class or finding gives {unclassed}"
    strangers = "\n".join(codes.strangers)
    assert not strangers, (
        f"add to CARRIERS, if it is a code, or to OTHER_WORDS, of tests/errorcodes.py:\n{strangers}"
    )


def test_what_a_person_must_mend_comes_with_a_hint(codes: Codes) -> None:
    places = "\n".join(codes.without_hint)
    assert not places, f"give a hint with the exact command, setting or SQL at:\n{places}"


def test_the_rows_of_a_section_are_in_alphabetical_order(rows: list[Row]) -> None:
    for section in SECTIONS:
        codes = [row.code for row in rows if row.section == section]
        assert codes == sorted(codes), section


def test_the_sections_stand_in_the_order_in_which_they_take_precedence() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == list(SECTIONS)


def test_codes_are_found_however_the_source_writes_them(codes: Codes) -> None:
    """By constant, here or imported; by condition; bound before; in a table; as what is left out; printed."""
    ways = {
        "replica-in-use": "OperatorNeeded",
        "value-too-large": "RefusedData",
        "replica-copying": "OperatorNeeded",
        "row-ambiguous": "Divergence",
        "trigger-raised": "Divergence",
        "disk-full": "RetryLater",
        "sql-refused": "OperatorNeeded",
        "copy-stopped": "CopyStopped",
        "verify-timeout": "Unhealthy",
        "log-fsync-failed": "RetryLater",
        "replica-older": "check error",
        "log-topic-insync-replicas": "check warning",
        "table-undecided": STATUS,
    }
    assert {code: kind for code, kind in ways.items() if kind in codes.kinds.get(code, {})} == ways


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (r"\| `slot-missing` .*\n", "", "add a row for `slot-missing` under '## The history is broken"),
        (r"\| `slot-missing`", "| `slot-gone` | x | y |\n| `slot-missing`", "remove the row of `slot-gone`"),
        (r"(\| `slot-missing` .*\n)", r"\1\1", "remove one row of `slot-missing`"),
        (
            r"(\| `slot-missing` .*\n)((?:.*\n)*?## Data .*\n)",
            r"\2\n\1",
            "move `slot-missing` from '## Data that cannot be carried: exit code 4' to '## The history",
        ),
        (
            r"\| `wal-level` \| error or ok",
            "| `wal-level` | ok",
            "the severity of `wal-level` is error or ok",
        ),
        (r" Where capture says so, exit code 1\.", "", "say in the row of `ddl-malformed` when"),
    ],
)
def test_a_fault_of_the_document_is_named_with_what_mends_it(
    codes: Codes, before: str, after: str, fault: str
) -> None:
    right = PAGE.read_text(encoding="utf-8")
    wrong, count = re.subn(before, after, right)
    assert count == 1
    told = Counter(faults_of(codes, read_rows(wrong))) - Counter(faults_of(codes, read_rows(right)))
    assert [each.startswith(fault) for each in told.elements()] == [True]
