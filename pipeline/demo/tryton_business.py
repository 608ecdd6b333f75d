"""What a sales team does all day, one committed Tryton transaction at a time.

Every act goes through Tryton's models, buttons and wizards, so that its business rules decide: history
tables fill, sales are numbered, quoted and invoiced, a deleted customer takes addresses and contacts along.
"""
# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from trytond.exceptions import TrytonException

from pipeline.demo import names
from pipeline.demo.tryton import Tryton

RECENT = 60  # people work on what is new; searching all would slow down as the database grows


class NewCustomer(NamedTuple):
    id: int
    commit_sent_s: float


class Business:
    """Draws an act, does it, counts it. `new_customer`: what the last act added, with the time of COMMIT."""

    def __init__(self, tryton: Tryton, dice: random.Random) -> None:
        self._tryton = tryton
        self._dice = dice
        self.done: Counter[str] = Counter()
        self.new_customer: NewCustomer | None = None
        self._added = 0
        self._acts: dict[Callable[[], bool], int] = {
            self.add_customer: 20,
            self.open_lead: 20,
            self.revise_deal: 18,
            self.qualify_lead: 12,
            self.quote_deal: 5,
            self.win_deal: 2,
            self.lose_deal: 5,
            self.delete_deal: 4,
            self.change_contact: 10,
            self.move_house: 4,
            self.relate_customers: 4,
            self.write_note: 6,
            self.attach_document: 4,
            self.rename_document: 3,
            self.mail_segment: 1,
            self.merge_duplicates: 1,
            self.delete_customer: 3,
        }
        self._staff = self._ids("company.employee")
        self._products = self._ids("product.product")
        self._segments = self._ids("party.category")
        self._relations = self._ids("party.relation.type")
        self._terms = self._ids("account.invoice.payment_term")
        self._countries = dict(self._tryton.transact(self._country_codes))

    def do_something(self) -> str:
        """One act and its name. What a business rule forbids is rolled back and counted as `refused`."""
        self.new_customer = None
        (act,) = self._dice.choices(list(self._acts), list(self._acts.values()))
        try:
            happened = self._tryton.transact(act)
        except TrytonException:
            happened, act = True, self._refused
        if not happened:  # nothing there to act on yet
            act = self.add_customer
            self._tryton.transact(act)
        if act == self.add_customer:
            self.new_customer = NewCustomer(self._added, self._tryton.commit_sent_s)
        name = act.__name__.strip("_").replace("_", " ")
        self.done[name] += 1
        return name

    def _refused(self) -> bool:
        return False

    # customers

    def add_customer(self) -> bool:
        is_company = self._dice.random() < 0.6
        name = names.company(self._dice) if is_company else names.person(self._dice)
        customer = self._model("party.party")(name=name)
        customer.addresses = [self._address() for _ in range(self._dice.choice((1, 1, 2)))]
        customer.contact_mechanisms = [self._contact("email", names.email(name, self._dice))]
        if self._dice.random() < 0.7:
            customer.contact_mechanisms += (self._contact("phone", names.phone(self._dice)),)
        customer.categories = self._dice.sample(self._segments, self._dice.choice((0, 1, 2)))
        customer.save()
        self._added = customer.id
        return True

    def change_contact(self) -> bool:
        if (customer := self._recent("party.party", [("addresses", "!=", None)])) is None:
            return False
        contacts = [*customer.contact_mechanisms]
        if len(contacts) > 1 and self._dice.random() < 0.4:
            self._model("party.contact_mechanism").delete([self._dice.choice(contacts)])
        elif contacts and self._dice.random() < 0.5:
            contact = self._dice.choice(contacts)
            contact.comment = self._dice.choice(names.REMARKS)
            contact.save()
        else:
            contact = self._contact("mobile", names.phone(self._dice))
            contact.party = customer
            contact.save()
        return True

    def move_house(self) -> bool:
        if (customer := self._recent("party.party", [("addresses", "!=", None)])) is None:
            return False
        address, place = customer.addresses[0], names.place(self._dice)
        address.street_unstructured = place.street
        address.postal_code, address.city = place.postal_code, place.city
        address.country = self._countries[place.country]
        address.save()
        return True

    def relate_customers(self) -> bool:
        one = self._recent("party.party", [("addresses", "!=", None)])
        other = self._recent("party.party", [("addresses", "!=", None)])
        if one is None or other is None or one == other:
            return False
        self._model("party.relation.all").create(
            [{"from_": one.id, "to": other.id, "type": self._dice.choice(self._relations)}]
        )
        return True

    def mail_segment(self) -> bool:
        """A campaign: many customers get a segment in one transaction."""
        segment = self._dice.choice(self._segments)
        customers = self._model("party.party").search(
            [("categories", "!=", segment)], order=[("id", "DESC")], limit=self._dice.randint(20, 150)
        )
        self._model("party.party").write(customers, {"categories": [("add", [segment])]})
        return bool(customers)

    def merge_duplicates(self) -> bool:
        source = self._recent("party.party", [("addresses", "!=", None)])
        destination = self._recent("party.party", [("addresses", "!=", None)])
        if source is None or destination is None or source == destination:
            return False
        replace = self._tryton.wizard("party.replace")
        session, _, _ = replace.create()
        wizard = replace(session)
        wizard.ask.source, wizard.ask.destination = source, destination
        wizard.transition_replace()
        replace.delete(session)
        return True

    def delete_customer(self) -> bool:
        customer = self._recent("party.party", [("addresses", "!=", None), ("replaced_by", "=", None)])
        if customer is None or self._model("sale.opportunity").search(
            [("party", "=", customer.id)], count=True
        ):
            return False
        self._model("party.party").delete([customer])
        return True

    # deals

    def open_lead(self) -> bool:
        customer = self._recent("party.party", [("addresses", "!=", None)])
        lead = self._model("sale.opportunity")(description=self._dice.choice(names.SUBJECTS))
        lead.party = customer
        lead.amount = self._amount()
        lead.conversion_probability = round(self._dice.random(), 4)
        lead.employee = self._dice.choice(self._staff)
        lead.lines = [self._line() for _ in range(self._dice.choice((0, 1, 1, 2, 3)))]
        lead.save()
        return True

    def revise_deal(self) -> bool:
        if (deal := self._deal("lead", "opportunity")) is None:
            return False
        deal.amount = self._amount()
        deal.conversion_probability = round(self._dice.random(), 4)
        deal.comment = self._dice.choice(names.REMARKS)
        if deal.lines and self._dice.random() < 0.3:
            self._model("sale.opportunity.line").delete([deal.lines[0]])
        elif self._dice.random() < 0.4:
            line = self._line()
            line.opportunity = deal
            line.save()
        deal.save()
        return True

    def qualify_lead(self) -> bool:
        return self._press("opportunity", self._deal("lead"))

    def lose_deal(self) -> bool:
        if (deal := self._deal("lead", "opportunity")) is None:
            return False
        deal.lost_reason = self._dice.choice(names.REASONS)
        deal.save()
        return self._press("lost", deal)

    def delete_deal(self) -> bool:
        """Cancelled first: Tryton deletes no deal that is open."""
        if (deal := self._deal("lead", "opportunity")) is None:
            return False
        self._press("cancel", deal)
        self._model("sale.opportunity").delete([deal])
        return True

    def quote_deal(self) -> bool:
        if (deal := self._deal("opportunity", with_lines=True)) is None:
            return False
        self._press("convert", deal)
        (sale,) = self._model("sale.sale").search([("origin", "=", str(deal))], limit=1)
        sale.payment_term = self._terms[0]
        sale.invoice_address = sale.shipment_address = deal.party.addresses[0]
        sale.save()
        self._model("sale.sale").quote([sale])
        return True

    def win_deal(self) -> bool:
        """The quotation is confirmed; Tryton marks the deal as won and makes the invoice."""
        sale = self._recent("sale.sale", [("state", "=", "quotation")])
        if sale is None:
            return False
        self._model("sale.sale").confirm([sale])
        return True

    # papers

    def write_note(self) -> bool:
        if (deal := self._deal("lead", "opportunity")) is None:
            return False
        message = "\n".join(self._dice.choices(names.REMARKS, k=self._dice.randint(1, 40)))
        self._model("ir.note").create([{"resource": str(deal), "message": message}])
        return True

    def attach_document(self) -> bool:
        if (customer := self._recent("party.party", [("addresses", "!=", None)])) is None:
            return False
        document = self._model("ir.attachment")(name=f"offer {self._dice.getrandbits(48):x}.pdf", type="data")
        document.resource = customer
        document.data = names.document(self._dice)
        document.save()
        return True

    def rename_document(self) -> bool:
        """Leaves the document's bytes alone: PostgreSQL does not send them again."""
        if (document := self._recent("ir.attachment", [])) is None:
            return False
        document.description = self._dice.choice(names.REMARKS)
        document.save()
        return True

    # parts

    def _model(self, name: str) -> Any:
        return self._tryton.model(name)

    def _ids(self, model: str) -> list[int]:
        return self._tryton.transact(lambda: [record.id for record in self._model(model).search([])])

    def _country_codes(self) -> list[tuple[str, int]]:
        return [(country.code, country.id) for country in self._model("country.country").search([])]

    def _recent(self, model: str, domain: list[Any]) -> Any:
        """One of the newest records, None if there is none."""
        found = self._model(model).search(domain, order=[("id", "DESC")], limit=RECENT)
        return self._dice.choice(found) if found else None

    def _deal(self, *states: str, with_lines: bool = False) -> Any:
        domain: list[Any] = [("state", "in", list(states)), ("party.addresses", "!=", None)]
        return self._recent("sale.opportunity", [*domain, ("lines", "!=", None)] if with_lines else domain)

    def _press(self, button: str, deal: Any) -> bool:
        if deal is None:
            return False
        getattr(self._model("sale.opportunity"), button)([deal])
        return True

    def _amount(self) -> Decimal:
        return Decimal(self._dice.randint(10_000, 9_999_999)) / 100

    def _line(self) -> Any:
        line = self._model("sale.opportunity.line")(product=self._dice.choice(self._products))
        line.on_change_product()
        line.quantity = self._dice.randint(1, 40)
        return line

    def _address(self) -> Any:
        place = names.place(self._dice)
        return self._model("party.address")(
            street_unstructured=place.street,
            postal_code=place.postal_code,
            city=place.city,
            country=self._countries[place.country],
        )

    def _contact(self, kind: str, value: str) -> Any:
        return self._model("party.contact_mechanism")(type=kind, value=value)
