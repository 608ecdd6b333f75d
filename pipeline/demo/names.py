"""People, companies and places, drawn from a seeded generator: the same seed gives the same customers.

The names use the letters that real address books use, beyond ASCII and beyond two bytes of UTF-8.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass

_FIRST = """
Amélie Björn Chiara Đorđe Elif François Gülşen Håkon Ioana Jürgen Katarzyna Łukasz Māra Nuño Oisín Péter Quỳnh
Renée Søren Tomáš Ülle Václav Wiebke Xenia Yağmur Zoë Noah Emma Liam Mia 美咲 伟 Ольга
"""
_LAST = """
Ångström Božić Çelik Dvořák Eriksson Fernández Großmann Høyer İnan Jönsson Kovács Lefèvre Müller Nowak Ó'Brien
Papadopoulos Quesada Rønning Šimůnek Türk Urbán Vestergaard Weiß Yıldız Żak 田中 王 Иванова
"""
FIRST = tuple(_FIRST.split())
LAST = tuple(_LAST.split())
TRADES = ("Logistik", "Textiles", "Robotics", "Bakery", "Dental", "Solar", "Optics", "Foods", "Media")
FORMS = ("GmbH", "S.à r.l.", "AB", "Kft.", "s.r.o.", "Ltd", "AS", "SpA", "B.V.", "& Söhne KG", "株式会社")
STREETS = ("Hauptstraße", "Rue de l'Église", "Storgatan", "Fő utca", "Náměstí Míru", "Ulica Długa")
CITIES = (
    ("89073", "Ulm", "DE"),
    ("75011", "Paris", "FR"),
    ("411 04", "Göteborg", "SE"),
    ("1052", "Budapest", "HU"),
    ("120 00", "Praha", "CZ"),
    ("EC1A 1BB", "London", "GB"),
    ("80-831", "Gdańsk", "PL"),
    ("0155", "Oslo", "NO"),
)
SUBJECTS = (
    "renewal",
    "first order",
    "extension",
    "pilot",
    "replacement",
    "framework contract",
    "training days",
)
REMARKS = (
    "Called twice; wants the offer in writing.",
    "Budget is fixed until the end of the quarter.\nAsk again in three weeks.",
    "Met at the trade fair. Likes the demo, “but not the price”.",
    "Decision by the board on Tuesday – send references first.",
    "Ganz zufrieden mit der Lieferung; möchte nächstes Jahr mehr. 🙂",
)
REASONS = ("Too expensive.", "Project was stopped.", "Went to a competitor.", "No answer for two months.")


@dataclass(frozen=True, slots=True)
class Place:
    street: str
    postal_code: str
    city: str
    country: str


def person(dice: random.Random) -> str:
    return f"{dice.choice(FIRST)} {dice.choice(LAST)}"


def company(dice: random.Random) -> str:
    return f"{dice.choice(LAST)} {dice.choice(TRADES)} {dice.choice(FORMS)}"


def place(dice: random.Random) -> Place:
    postal_code, city, country = dice.choice(CITIES)
    return Place(f"{dice.choice(STREETS)} {dice.randint(1, 180)}", postal_code, city, country)


def email(name: str, dice: random.Random) -> str:
    """An address in a domain that is reserved for examples (RFC 2606)."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    local = ".".join("".join(filter(str.isalnum, word)) for word in plain.split()).strip(".")
    return f"{local or 'contact'}.{dice.randint(1, 99_999)}@example.com"


def phone(dice: random.Random) -> str:
    return f"+49 731 {dice.randint(100_000, 999_999)}"


def document(dice: random.Random) -> bytes:
    """Bytes that do not compress, as PDFs and photos: PostgreSQL keeps them out of line (TOAST)."""
    return dice.randbytes(dice.randint(3_000, 40_000))
