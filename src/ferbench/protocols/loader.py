"""Reads a protocol folder: `protocol.toml` and one CSV file of published numbers per table.

`extends = "<name>"` in a recipe or a table takes the keys it does not set itself from another one of the same file, one
level deep.
"""

from __future__ import annotations

import csv
import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ferbench.protocols.schema import (
    PUBLISHED_ONLY,
    REST,
    SPLIT_KEYS,
    SPLIT_OPTIONAL,
    Claim,
    Column,
    Option,
    Protocol,
    ProtocolError,
    Published,
    Recipe,
    Row,
    Split,
    Table,
    preset_for,
)
from ferbench.validation import build, nearest

OF_PRESETS = ("method_options", "instead", "off_pace")  # sections by preset
FOLDER = Path(__file__).parent
PAPER, HALF = "paper", "paper-bf16"
CSV_HEADER = ["row", "column", "metric", "mean", "std"]


def protocol_names() -> tuple[str, ...]:
    """Names of the protocols that come with the package, sorted."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/protocol.toml")))


def load_protocol(name_or_path: str | Path) -> Protocol:
    """The protocol of this name, or the one in this folder (or `protocol.toml` file).

    Raises ProtocolError: no such protocol, or the first thing that is wrong with its files.
    """
    path = _find(name_or_path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, no TOML, a number of 5,000 digits
        raise ProtocolError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from error
    _extend_recipes(raw, path)
    _extend_tables(raw, path)
    _extend_presets(raw, path)
    protocol = build(Protocol, raw, str(path), ProtocolError)
    tables = tuple(replace(table, published=_published(table, path)) for table in protocol.tables)
    presets = {**protocol.presets, **_half(protocol.presets)}
    protocol = replace(protocol, tables=tables, presets=presets, path=path, hash=_hash(path, tables))
    _check(protocol)
    return protocol


def _find(name_or_path: str | Path) -> Path:
    names = protocol_names()
    if str(name_or_path) in names:
        return FOLDER / str(name_or_path) / "protocol.toml"
    path = Path(name_or_path)
    path = path / "protocol.toml" if path.is_dir() else path
    if not path.is_file():
        raise ProtocolError(f"no protocol '{name_or_path}'; {nearest(str(name_or_path), names)}")
    return path


def _half(presets: Mapping[str, Mapping[str, Option]]) -> dict[str, Mapping[str, Option]]:
    """The paper's preset in bfloat16: faster on a GPU, and a preset of its own, for its arithmetic is another."""
    return {HALF: {**presets[PAPER], "dtype": "bfloat16"}} if PAPER in presets and HALF not in presets else {}


def _hash(path: Path, tables: tuple[Table, ...]) -> str:
    """SHA-256 over the protocol file and its CSV files, names included, line ends as in the repository."""
    digest = hashlib.sha256()
    for part in [path, *(csv_path for table in tables if (csv_path := _csv_path(table, path)).is_file())]:
        content = part.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{part.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _extend_recipes(raw: dict[str, Any], path: Path) -> None:
    recipes = raw.get("recipes", {})
    if isinstance(recipes, dict):
        raw["recipes"] = {name: _extend(recipe, recipes, f"{path}.recipes.{name}") for name, recipe in recipes.items()}


def _extend_tables(raw: dict[str, Any], path: Path) -> None:
    tables = raw.get("tables", [])
    if isinstance(tables, list) and all(isinstance(table, dict) for table in tables):
        by_id = {str(table.get("id")): table for table in tables}
        raw["tables"] = [_extend(table, by_id, f"{path}.tables[{table.get('id')}]") for table in tables]


def _extend_presets(raw: dict[str, Any], path: Path) -> None:
    """A preset takes along what other sections say of the one it extends, but for the entries it has there itself."""
    presets = raw.get("presets")
    if not isinstance(presets, dict):
        return
    bases = {
        name: preset["extends"] for name, preset in presets.items() if isinstance(preset, dict) and "extends" in preset
    }
    raw["presets"] = {name: _extend(preset, presets, f"{path}.presets.{name}") for name, preset in presets.items()}
    for section in (raw[name] for name in OF_PRESETS if isinstance(raw.get(name), dict)):
        for name, base in bases.items():
            entries = section.get(base, {}), section.get(name, {})
            if all(isinstance(entry, dict) for entry in entries):
                section[name] = entries[0] | entries[1]


def _extend(own: Any, others: Mapping[str, Any], where: str) -> Any:
    if not isinstance(own, dict) or "extends" not in own:
        return own
    name = str(own["extends"])
    if name not in others:
        raise ProtocolError(f"{where}.extends: no '{name}' in this file; {nearest(name, others)}")
    if not isinstance(others[name], dict):
        raise ProtocolError(f"{where}.extends: '{name}' is no table")
    if "extends" in others[name]:
        raise ProtocolError(f"{where}.extends: '{name}' extends another itself; only one level is allowed")
    return {**others[name], **{key: value for key, value in own.items() if key != "extends"}}


def _csv_path(table: Table, path: Path) -> Path:
    return path.parent / (f"table{table.id}.csv" if table.kind == "table" else f"{table.id}.csv")


def _published(table: Table, path: Path) -> dict[tuple[str, str, str], Published]:
    csv_path = _csv_path(table, path)
    if not csv_path.is_file():
        return {}
    numbers: dict[tuple[str, str, str], Published] = {}
    with csv_path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            if next(lines, None) != CSV_HEADER:
                raise ProtocolError(f"{csv_path}: the first line must be {','.join(CSV_HEADER)}")
            for line in lines:
                where = f"{csv_path}:{lines.line_num}"
                key, number = _published_line(line, table, where)
                if key in numbers:
                    raise ProtocolError(f"{where}: {'/'.join(key)} is given twice")
                numbers[key] = number
        except (csv.Error, UnicodeDecodeError) as error:
            raise ProtocolError(f"{csv_path}:{lines.line_num + 1}: cannot be read: {error}") from error
    return numbers


def _published_line(line: list[str], table: Table, where: str) -> tuple[tuple[str, str, str], Published]:
    if len(line) != len(CSV_HEADER):
        raise ProtocolError(f"{where}: expected {len(CSV_HEADER)} values, got {len(line)}")
    row, column, metric, mean, std = line
    _known(row, [item.id for item in table.rows], f"{where}: row")
    _known(column, [item.id for item in table.columns], f"{where}: column")
    _known(metric, table.metrics, f"{where}: metric")
    try:
        number = Published(float(mean), float(std) if std else None)
        if not (math.isfinite(number.mean) and math.isfinite(number.std or 0.0)):
            raise ValueError("not finite")
        return (row, column, metric), number
    except ValueError as error:
        raise ProtocolError(f"{where}: mean and std must be numbers, got '{mean}' and '{std}'") from error


def _known(name: str, valid: Any, where: str) -> None:
    if name not in valid:
        raise ProtocolError(f"{where}: no '{name}'; {nearest(name, valid)}")


def _check(protocol: Protocol) -> None:
    """What one section may say of another: names that exist, presets that fit, a number or a reason in every cell."""
    path = protocol.path
    if not protocol.presets:
        raise ProtocolError(f"{path}: presets: needs at least one, e.g. [presets.paper]")
    for section in ("method_options", "instead", "off_pace"):
        for name in getattr(protocol, section):
            _known(name, protocol.presets, f"{path}.{section}")
    for name, preset in protocol.presets.items():
        for key in (key for key in preset if "." in key):
            _known(key.rpartition(".")[0], protocol.recipes, f"{path}.presets.{name}.{key}")
        for key, stand_ins in protocol.instead.get(name, {}).items():
            for value in stand_ins.values():
                recipe = next(iter(protocol.recipes.values()))
                build(Recipe, {**vars(recipe), key: value}, f"{path}.instead.{name}", ProtocolError)
        for recipe_name, recipe in protocol.recipes.items():
            build(Recipe, {**vars(recipe), **preset_for(preset, recipe_name)}, f"{path}.presets.{name}", ProtocolError)
    for name, split in protocol.splits.items():
        _check_split(split, f"{path}.splits.{name}")
    for name, pretraining in protocol.pretraining.items():
        for dataset in pretraining.datasets:
            _known(dataset, protocol.datasets, f"{path}.pretraining.{name}.datasets")
    _unique([table.id for table in protocol.tables], f"{path}.tables")
    for table in protocol.tables:
        _check_table(protocol, table, f"{path}.tables[{table.id}]")
    _unique([claim.id for claim in protocol.claims], f"{path}.claims")
    for claim in protocol.claims:
        _check_claim(protocol, claim, f"{path}.claims[{claim.id}]")


def _check_claim(protocol: Protocol, claim: Claim, where: str) -> None:
    tables = {table.id: table for table in protocol.tables}
    if not claim.tables:
        raise ProtocolError(f"{where}.tables: may not be empty")
    for name in claim.tables:
        _known(name, tables, f"{where}.tables")
        for key in ("first", "second"):
            _known(
                getattr(claim, key).partition("@")[0], [row.id for row in tables[name].rows], f"{where}.{key}: {name}"
            )
    for key in ("presets", "published"):
        if len(getattr(claim, key)) not in (0, 2):
            raise ProtocolError(f"{where}.{key}: needs two, for the first row and for the second, or none")
    for preset in claim.presets:
        _known(preset, protocol.presets, f"{where}.presets")
    for place in claim.published:
        name, _, cell = place.partition("/")
        _known(name, tables, f"{where}.published")
        _known(cell, sorted({f"{row}/{column}" for row, column, _ in tables[name].published}), f"{where}.published")


def _check_split(split: Split, where: str) -> None:
    wanted = SPLIT_KEYS[split.kind]
    allowed = (*wanted, *SPLIT_OPTIONAL.get(split.kind, ()))
    for key in {key for keys in (*SPLIT_KEYS.values(), *SPLIT_OPTIONAL.values()) for key in keys}:
        given = getattr(split, key) is not None
        if given and key not in allowed:
            raise ProtocolError(f"{where}: '{key}' does not belong to a {split.kind} split")
        if not given and key in wanted:
            raise ProtocolError(f"{where}: a {split.kind} split needs '{key}'")


def _check_table(protocol: Protocol, table: Table, where: str) -> None:
    _unique([row.id for row in table.rows], f"{where}.rows")
    _unique([column.id for column in table.columns], f"{where}.columns")
    if not table.metrics or not table.seeds:
        raise ProtocolError(f"{where}: metrics and seeds may not be empty")
    for row in table.rows:
        if not row.method and PUBLISHED_ONLY not in (row.status, table.status):
            raise ProtocolError(f"{where}.rows[{row.id}]: needs a method, or status = '{PUBLISHED_ONLY}'")
        _check_names(protocol, row, f"{where}.rows[{row.id}]")
    for column in table.columns:
        runnable = PUBLISHED_ONLY not in (table.status, column.status) and not column.mean_of
        if runnable and not (column.dataset and column.split and column.recipe):
            raise ProtocolError(f"{where}.columns[{column.id}]: needs dataset, split and recipe")
        _check_names(protocol, column, f"{where}.columns[{column.id}]")
        for key in ("dataset", "test"):
            if getattr(column, key):
                _known(getattr(column, key), protocol.datasets, f"{where}.columns[{column.id}].{key}")
        for name in column.mean_of:
            others = [other.id for other in table.columns if not other.mean_of]
            _known(name, others, f"{where}.columns[{column.id}].mean_of")
    _check_row_options(protocol, table, where)
    for entry in table.absent:
        _known(entry.row, ["*", *(row.id for row in table.rows)], f"{where}.absent.row")
        _known(entry.column, ["*", *(column.id for column in table.columns)], f"{where}.absent.column")
    _check_complete(table, where)


def _check_row_options(protocol: Protocol, table: Table, where: str) -> None:
    """What a row sets otherwise must fit every split and recipe it is put into."""
    for row in table.rows:
        here = f"{where}.rows[{row.id}]"
        for name in sorted({row.split or column.split for column in table.columns} - {""}) if row.split_options else ():
            given = {key: value for key, value in vars(protocol.splits[name]).items() if value is not None}
            split = build(Split, {**given, **row.split_options}, f"{here}.split_options", ProtocolError)
            _check_split(split, f"{here}.split_options")
        if row.recipe_options:
            recipe = vars(next(iter(protocol.recipes.values())))
            build(Recipe, {**recipe, **row.recipe_options}, f"{here}.recipe_options", ProtocolError)


def _check_names(protocol: Protocol, item: Row | Column, where: str) -> None:
    stage, there = item.after if isinstance(item, Row) else None, where
    while stage:
        there = f"{there}.after"
        if stage.recipe:
            _known(stage.recipe, protocol.recipes, f"{there}.recipe")
        for name in stage.unlabelled or ():
            _known(name, [REST, *protocol.datasets], f"{there}.unlabelled")
        stage = stage.after
    if item.split:
        _known(item.split, protocol.splits, f"{where}.split")
    if item.recipe:
        _known(item.recipe, protocol.recipes, f"{where}.recipe")
    if item.candidates:
        _known(item.candidates, protocol.candidates, f"{where}.candidates")
    for name in item.unlabelled or ():
        _known(name, [REST, *protocol.datasets], f"{where}.unlabelled")
    _unique(list(item.unlabelled or ()), f"{where}.unlabelled")


def _check_complete(table: Table, where: str) -> None:
    for row in table.rows:
        for column in table.columns:
            excused = any(entry.covers(row.id, column.id) for entry in table.absent)
            found = [(row.id, column.id, metric) in table.published for metric in table.metrics]
            cell = f"{row.id}/{column.id}"
            if not all(found) and not excused:
                raise ProtocolError(f"{where}: {cell} has no published number; add it, or say why in `absent`")
            if all(found) and excused:
                raise ProtocolError(f"{where}: {cell} has published numbers and an `absent` entry")


def _unique(ids: list[str], where: str) -> None:
    for name in ids:
        if ids.count(name) > 1:
            raise ProtocolError(f"{where}: id '{name}' is used twice")
