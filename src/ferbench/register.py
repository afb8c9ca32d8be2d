"""A register: names, and for each the place of a thing that is imported when it is first asked for.

Methods, readers and backbones each have one. A list of names therefore costs no import, and code outside the package
joins by one call of `add`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar

from ferbench.errors import UserError
from ferbench.validation import unknown

T = TypeVar("T")


class Register(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind, in the order in which they were registered.

    kind: what a thing is called in messages, such as "method"
    places: for each name "MODULE:ATTRIBUTE", or the thing itself where it costs nothing to make
    error: the exception that `find` raises for an unknown name
    """

    def __init__(self, kind: str, places: Mapping[str, str | T], error: type[UserError]) -> None:
        self.kind = kind
        self._places: dict[str, str | T] = dict(places)
        self._error = error

    def __getitem__(self, name: str) -> T:
        place = self._places[name]
        if isinstance(place, str):
            module, _, attribute = place.partition(":")
            place = self._places[name] = self.loaded(getattr(import_module(module), attribute))
        return place

    def loaded(self, thing: T) -> T:
        """The thing as the register gives it out; a register of wrapped things overrides this."""
        return thing

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # without importing anything

    def find(self, name: str) -> T:
        """The thing called `name`. Raises the register's error, which names the nearest one or all of them."""
        if name not in self._places:
            raise self._error(unknown(self.kind, name, self))
        return self[name]

    def place(self, name: str) -> str:
        """Where the thing called `name` is, as "MODULE:ATTRIBUTE", known without importing it."""
        place = self._places[name]
        return place if isinstance(place, str) else f"{getattr(place, '__module__', '')}:{name}"

    def add(self, name: str, thing: str | T) -> None:
        """Register a thing, or the place of one. Raises the register's error for a name that is taken."""
        if name in self._places:
            raise self._error(f"there is a {self.kind} '{name}' already; give yours another name")
        self._places[name] = thing
