"""`python -m pipeline.demo.tryton_company DATABASE`: gives an empty Tryton the books of a small company.

Company, currency, chart of accounts, fiscal year, staff, price list and segments, made through
proteus, Tryton's scripting client, as its own scenario tests do. Then a first year of customers.
"""
# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import random
import sys
from decimal import Decimal
from typing import Any

from proteus import Model, config
from trytond.modules.account.tests.tools import create_chart, create_fiscalyear, create_tax, get_accounts
from trytond.modules.account_invoice.tests.tools import create_payment_term, set_fiscalyear_invoice_sequences
from trytond.modules.company.tests.tools import create_company

from pipeline.demo.tryton import Tryton
from pipeline.demo.tryton_business import Business

STAFF = ("Astrid Lindqvist", "Mehmet Öztürk", "Siobhán Ní Dhomhnaill")
PRODUCTS = (("Seat licence", "49.90"), ("Onboarding day", "1180.00"), ("Support hour", "96.50"))
SEGMENTS = ("Newsletter", "Trade fair 2026", "Key account", "Dormant")
RELATIONS = (("employs", "works for"), ("refers", "was referred by"))
COUNTRIES = (
    ("DE", "Germany"),
    ("FR", "France"),
    ("SE", "Sweden"),
    ("HU", "Hungary"),
    ("CZ", "Czechia"),
    ("GB", "United Kingdom"),
    ("PL", "Poland"),
    ("NO", "Norway"),
)
FIRST_YEAR = 400
SEED = 1


def main(database: str) -> None:
    config.set_trytond(database, user="admin")
    _open_books()
    _hire_staff()
    _offer_products()
    _name_countries_segments_and_relations()
    business = Business(Tryton(database), random.Random(SEED))  # noqa: S311 (not a secret)
    for done in range(FIRST_YEAR):
        business.do_something()
        if done % 50 == 0:
            sys.stdout.write(f"first year of business: {done} of {FIRST_YEAR}\n")
            sys.stdout.flush()


def _open_books() -> None:
    party = _made("party.party", name="Nordlicht Software AB")
    create_company(party=party, currency="EUR")
    create_chart()
    year = set_fiscalyear_invoice_sequences(create_fiscalyear())
    year.save()
    year.click("create_period")
    create_payment_term().save()


def _hire_staff() -> None:
    for name in STAFF:
        _made("company.employee", party=_made("party.party", name=name))


def _offer_products() -> None:
    tax = create_tax(Decimal("0.25"))
    tax.save()
    category = Model.get("product.category")(name="Services", accounting=True)
    category.account_revenue = get_accounts()["revenue"]
    category.customer_taxes.append(tax)
    category.save()
    (unit,) = Model.get("product.uom").find([("name", "=", "Unit")])
    for name, price in PRODUCTS:
        product = Model.get("product.template")(name=name, type="service", salable=True)
        product.default_uom = unit
        product.list_price = Decimal(price)
        product.account_category = category
        product.save()


def _name_countries_segments_and_relations() -> None:
    for code, name in COUNTRIES:
        _made("country.country", code=code, name=name)
    for name in SEGMENTS:
        _made("party.category", name=name)
    for name, reverse_name in RELATIONS:
        forth = _made("party.relation.type", name=name)
        back = _made("party.relation.type", name=reverse_name, reverse=forth)
        forth.reverse = back
        forth.save()


def _made(model: str, **values: Any) -> Any:
    record = Model.get(model)(**values)
    record.save()
    return record


if __name__ == "__main__":
    main(sys.argv[1])
