"""How many images of each class a kind of split labels: every paper's rule, from class sizes alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ferbench.bench.data.faceset import DataError
from ferbench.protocols.schema import SPLIT_ALWAYS, SPLIT_KEYS, SPLIT_OPTIONAL

Parameters = Mapping[str, float | int | Mapping[str, int]]

# Ada-CM's README: labels in all -> those of fear, those of each other class of RAF-DB
ADACM = {100: (10, 15), 400: (40, 60), 1000: (100, 150), 2000: (200, 300), 4000: (250, 625)}
ADACM_FEAR = 250  # what its released `data_split` takes of fear, whatever it is asked for
RAFDB_CLASSES = 7


def _whole(value: float) -> bool:
    return value >= 1 and float(value).is_integer()


RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "n1": (_whole, "a whole number from 1"),
    "gamma": (lambda value: value >= 1, "at least 1"),
    "per_class": (_whole, "a whole number from 1"),
    "labels": (_whole, "a whole number from 1"),
    "fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "folds": (lambda value: value >= 2 and float(value).is_integer(), "a whole number from 2"),
    "fold": (_whole, "a whole number from 1"),
    "fold_seed": (_whole, "a whole number from 1"),
    "own_folds": (lambda value: value in (False, True), "true or false"),
    "validation": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "noise": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "overlap": (lambda value: value in (False, True), "true or false"),
    "parts": (lambda value: value >= 2 and float(value).is_integer(), "a whole number from 2"),
    "part": (_whole, "a whole number from 1"),
}


def requested_counts(recipe: str, parameters: Parameters, sizes: Mapping[str, int]) -> dict[str, int]:
    """Labelled images per class (validation included) of a kind of split in SPLIT_KEYS, from `sizes` per class.

    `exceptions` of a balanced split gives some classes another count. A fraction is rounded half to even, at least one.
    For kfold `sizes` are those of the training folds. Raises DataError for a recipe, parameter or value that is none.
    """
    exceptions = check_parameters(recipe, parameters, sizes)
    numbers = {name: value for name, value in parameters.items() if not isinstance(value, Mapping)}
    if recipe == "long_tailed":
        return long_tailed_counts(sizes, int(numbers["n1"]), float(numbers["gamma"]))
    if recipe == "balanced":
        return {name: exceptions.get(name, int(numbers["per_class"])) for name in sizes}
    if recipe in ("fraction", "kfold"):
        return {name: max(1, round(float(numbers["fraction"]) * size)) for name, size in sizes.items()}
    if recipe == "total":
        return dict.fromkeys(sizes, int(numbers["labels"]) // len(sizes))
    if recipe == "adacm":
        return adacm_counts(sizes, int(numbers["labels"]))
    if recipe == "adacm_released":
        return adacm_released_counts(sizes, int(numbers["labels"]))
    return dict(sizes)


def long_tailed_counts(sizes: Mapping[str, int], n1: int, gamma: float) -> dict[str, int]:
    """N_k = n1 * gamma^(-(k-1)/(K-1)), truncated, classes by falling size and ties by name (ReMoP, Sec. 5.1)."""
    order = sorted(sizes, key=lambda name: (-sizes[name], name))
    last = max(len(order) - 1, 1)
    # The small addend keeps exact values such as 1000 / 10 from falling one short through rounding of the power.
    return {name: int(n1 * float(gamma) ** (-rank / last) + 1e-9) for rank, name in enumerate(order)}


def adacm_counts(sizes: Mapping[str, int], labels: int) -> dict[str, int]:
    """Ada-CM's README: as many labels of each class, fewer of fear. Raises DataError for a total that it does not list.

    The counts of its SFEW and AffectNet columns stand in a supplement that is not to be had; `balanced` with
    `exceptions` can say any.
    """
    _check_rafdb_classes("adacm", sizes)
    if labels not in ADACM:
        raise DataError(
            f"split adacm: labels must be one of {', '.join(map(str, ADACM))} (its README), not {labels}; "
            "for another total use balanced with exceptions"
        )
    fear, other = ADACM[labels]
    return dict.fromkeys(sizes, other) | {"fear": fear}


def adacm_released_counts(sizes: Mapping[str, int], labels: int) -> dict[str, int]:
    """What Ada-CM's released `data_split` labels on RAF-DB: 250 of fear and (labels - 250) / 6 of each other class.

    It slices a shuffled class with [:count]; below 245 labels the count is negative, and the slice is all but so many.
    """
    _check_rafdb_classes("adacm_released", sizes)
    count = int((labels - ADACM_FEAR) / (RAFDB_CLASSES - 1))
    taken = {name: count if count >= 0 else max(0, size + count) for name, size in sizes.items()}
    return taken | {"fear": ADACM_FEAR}


def _check_rafdb_classes(recipe: str, sizes: Mapping[str, int]) -> None:
    if len(sizes) != RAFDB_CLASSES or "fear" not in sizes:
        raise DataError(
            f"split {recipe}: it is a rule for {RAFDB_CLASSES} classes with fear among them, not for "
            f"{', '.join(sizes)}; use balanced with exceptions"
        )


def check_parameters(recipe: str, parameters: Parameters, classes: Collection[str]) -> Mapping[str, int]:
    """The checked exceptions of a balanced split; DataError for anything that does not belong."""
    if recipe not in SPLIT_KEYS:
        raise DataError(f"unknown split recipe '{recipe}'; valid: {', '.join(SPLIT_KEYS)}, or a split file")
    needed = SPLIT_KEYS[recipe]
    allowed = (*needed, *SPLIT_OPTIONAL.get(recipe, ()), *SPLIT_ALWAYS)
    wrong = [f"needs '{name}'" for name in needed if name not in parameters]
    wrong += [f"does not take '{name}' (takes {', '.join(allowed)})" for name in parameters if name not in allowed]
    for name, value in parameters.items():
        if name in RANGES and (isinstance(value, Mapping) or not RANGES[name][0](value)):
            wrong.append(f"{name} must be {RANGES[name][1]}, not {value}")
    if ("parts" in parameters) != ("part" in parameters):
        wrong.append("takes parts and part together")
    elif not wrong and float(str(parameters.get("part", 0))) > float(str(parameters.get("parts", 0))):
        wrong.append(f"has no part {parameters['part']} of {parameters['parts']}")
    exceptions = parameters.get("exceptions", {})
    if not isinstance(exceptions, Mapping):
        wrong.append(f"exceptions must give counts by class, not {exceptions}")
        exceptions = {}
    for name, count in exceptions.items():
        if name not in classes:
            wrong.append(f"excepts '{name}', which is no class ({', '.join(classes)})")
        elif not _whole(count):
            wrong.append(f"excepts '{name}' with {count}, which is no whole number from 1")
    if wrong:
        raise DataError(f"split {recipe}: {'; '.join(wrong)}")
    return exceptions
