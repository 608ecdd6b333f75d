"""SQL of foreign keys in which the key or a column gets another name."""

from __future__ import annotations

import pytest

from schemas.ddl.renaming_keys import Renaming, of_table, with_column, with_constraint

A_TO_B = Renaming(frozenset({"a", '"a"'}), '"B"')
ADDED = 'alter table only "s"."my constraint a" add constraint {} FOREIGN KEY (a) REFERENCES s.a(a)'


@pytest.mark.parametrize(
    ("statement", "renamed"),
    [
        (ADDED.format('"a"'), ADDED.format('"B"')),
        (ADDED.format('"c"'), ADDED.format('"c"')),
        (
            "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT a FOREIGN",
            'ALTER TABLE ONLY s.t\n    ADD CONSTRAINT "B" FOREIGN',
        ),
        ('alter table "s"."a" validate constraint "a";', 'alter table "s"."a" validate constraint "B";'),
        (
            """comment on constraint "a" on "s"."a" is 'constraint a';""",
            """comment on constraint "B" on "s"."a" is 'constraint a';""",
        ),
    ],
)
def test_a_keys_name_stands_behind_the_word_constraint(statement: str, renamed: str) -> None:
    assert with_constraint(statement, A_TO_B) == renamed


@pytest.mark.parametrize(
    ("own", "key"),
    [
        (True, '("B", b) REFERENCES s.t(a, "a b") ON DELETE SET NULL ("B") NOT VALID;'),
        (False, '(a, b) REFERENCES s.t("B", "a b") ON DELETE SET NULL (a) NOT VALID;'),
    ],
)
def test_a_columns_name_stands_in_the_list_of_its_table(*, own: bool, key: str) -> None:
    made = 'alter table "s"."a" add constraint "a" FOREIGN KEY '
    statement = f'{made}(a, b) REFERENCES s.t(a, "a b") ON DELETE SET NULL (a) NOT VALID;'
    referenced = [] if own else ["s.t"]
    assert with_column(statement, A_TO_B, own=own, referenced=referenced) == made + key


def test_a_keys_table_is_the_one_that_is_altered() -> None:
    made = 'alter table only "s"."a b" add constraint "a" FOREIGN KEY (a) REFERENCES s."a b"(a);'
    assert of_table(made, '"s"."c"') == made.replace('"s"."a b"', '"s"."c"', 1)
