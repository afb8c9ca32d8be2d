"""Values of options that cannot be meant, refused in one line before anything is trained."""

from __future__ import annotations


def above_zero(options: object, *names: str) -> None:
    """Raise ValueError for the first of these options that is not above 0."""
    for name in names:
        if not getattr(options, name) > 0:
            raise ValueError(f"option '{name}' must be above 0, not {getattr(options, name)}")


def not_negative(options: object, *names: str) -> None:
    """Raise ValueError for the first of these options that is below 0."""
    for name in names:
        if not getattr(options, name) >= 0:
            raise ValueError(f"option '{name}' must be at least 0, not {getattr(options, name)}")


def share(options: object, *names: str) -> None:
    """Raise ValueError for the first of these options that lies outside [0, 1]."""
    for name in names:
        if not 0 <= getattr(options, name) <= 1:
            raise ValueError(f"option '{name}' must lie in [0, 1], not {getattr(options, name)}")
