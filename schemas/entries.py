"""What an ANCHOR says of the publication: entries, which are texts `kind:…` (docs/frame-format.md). Pure.

`Entries` holds them by kind. What those of one kind say, their `Kind` reads and writes, which stands beside
what they are for. A kind is read when it is first asked for, and one of which nothing was replaced is written
as it came: so are those that this release does not know.

In the log the entries of a kind stand together, in the order in which they came; one that is replaced keeps
its place, and a new one comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

from schemas.errors import BEGIN_ANEW, InternalError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Kind(Generic[Key, Value]):
    """What entries of one kind say. `about`: in words. `key`: by what each is looked up. `decode`, `encode`:
    from the text behind `name:`, and to it; what cannot be read is a ValueError, TypeError or LookupError."""

    name: str
    about: str
    key: Callable[[Value], Key]
    decode: Callable[[str], Value]
    encode: Callable[[Value], str]


def text_kind(name: str, about: str) -> Kind[str, str]:
    """Of entries that are looked up by all that they say."""
    return Kind(name, about, key=str, decode=str, encode=str)


class Entries:
    """An ANCHOR's entries, immutable: what alters them returns others, which share all that is as it was.

    An entry that this release cannot read raises InternalError (`anchor-malformed`) where its kind is asked
    for.
    """

    __slots__ = ("_kinds",)

    def __init__(self, kinds: Mapping[str, _OfOneKind] | None = None) -> None:
        self._kinds: Mapping[str, _OfOneKind] = kinds or {}

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Entries:
        found: dict[str, list[str]] = {}
        for text in texts:
            found.setdefault(text.partition(":")[0], []).append(text)
        return cls({name: _OfOneKind(texts=tuple(each)) for name, each in found.items()})

    def encode(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(each.texts() for each in self._kinds.values()))

    def __contains__(self, kind: Kind[Any, Any]) -> bool:
        """Whether there is any of this kind."""
        return kind.name in self._kinds

    def of(self, kind: Kind[Key, Value]) -> Mapping[Key, Value]:
        """Those of one kind, by their keys."""
        found = self._kinds.get(kind.name)
        return {} if found is None else found.values(kind)

    def put(self, kind: Kind[Key, Value], *values: Value) -> Entries:
        """With these, each in the place of an earlier one of its key."""
        if not values:
            return self
        known = dict(self.of(kind))
        known.update((kind.key(value), value) for value in values)
        return self._with(kind, known)

    def drop(self, kind: Kind[Key, Any], *keys: Key) -> Entries:
        """Without those of these keys, where they are."""
        gone = self.of(kind).keys() & keys
        if not gone:
            return self
        kept = dict(self.of(kind))
        for key in gone:
            del kept[key]
        return self._with(kind, kept)

    def only(self, *kinds: Kind[Any, Any]) -> Entries:
        """Those of these kinds."""
        names = {kind.name for kind in kinds}
        return Entries({name: each for name, each in self._kinds.items() if name in names})

    def without(self, *kinds: Kind[Any, Any]) -> Entries:
        """Those of all other kinds."""
        names = {kind.name for kind in kinds}
        return Entries({name: each for name, each in self._kinds.items() if name not in names})

    def __or__(self, other: Entries) -> Entries:
        """Those of both; of a kind that both have, the other's."""
        return Entries({**self._kinds, **other._kinds})

    def _with(self, kind: Kind[Key, Value], known: dict[Key, Value]) -> Entries:
        if not known:
            return self.without(kind)
        return Entries({**self._kinds, kind.name: _OfOneKind(kind, known)})


class _OfOneKind:
    """One at least: as texts, or as values of a kind, whichever they were first; the other is made of that
    once."""

    __slots__ = ("_kind", "_texts", "_values")

    def __init__(
        self,
        kind: Kind[Any, Any] | None = None,
        values: Mapping[Any, Any] | None = None,
        *,
        texts: tuple[str, ...] | None = None,
    ) -> None:
        self._kind = kind
        self._values = values
        self._texts = texts

    def texts(self) -> tuple[str, ...]:
        if self._texts is None:
            assert self._kind is not None
            assert self._values is not None
            name, encode = self._kind.name, self._kind.encode
            self._texts = tuple(f"{name}:{encode(value)}" for value in self._values.values())
        return self._texts

    def values(self, kind: Kind[Any, Any]) -> Mapping[Any, Any]:
        if self._values is None:
            read = (_read(kind, text) for text in self.texts())
            self._values = {kind.key(value): value for value in read}
        return self._values


def _read(kind: Kind[Any, Value], text: str) -> Value:
    try:
        return kind.decode(text.removeprefix(f"{kind.name}:"))
    except (ValueError, TypeError, LookupError):
        raise entry_malformed(kind.about) from None


def entry_malformed(about: str) -> InternalError:
    """This version cannot read it. `about`: what the entry says something of."""
    return InternalError(
        f"an ANCHOR's entry about {about} cannot be read",
        code="anchor-malformed",
        hint=f"Another version of Keepstream wrote it: capture with that one, or {BEGIN_ANEW}.",
    )
