"""Rows and columns of the packaged protocols against what the harness has: options of methods, options of readers."""

from __future__ import annotations

import pytest

from ferbench.bench.data.sets.readers import READERS
from ferbench.bench.tables.settings import describe
from ferbench.methods import LEARNERS, METHODS, PLUG_INS, option_values
from ferbench.protocols import Protocol, Row, load_protocol, protocol_names

PROTOCOLS = [load_protocol(name) for name in protocol_names()]
ROWS = [
    pytest.param(protocol, row, id=f"{protocol.name}/{table.id}/{row.id}")
    for protocol in PROTOCOLS for table in protocol.tables for row in table.rows if row.method
]  # fmt: skip
DATASETS = [
    pytest.param(protocol, name, id=f"{protocol.name}/{name}") for protocol in PROTOCOLS for name in protocol.datasets
]


@pytest.mark.parametrize(("protocol", "row"), ROWS)
def test_a_rows_options_are_its_methods(protocol: Protocol, row: Row) -> None:
    learner = str(row.options.get("learner", "fixmatch"))
    if row.method not in METHODS or (row.method in PLUG_INS and learner not in LEARNERS):
        pytest.skip(f"{row.method} on {learner} is not there yet")
    values = option_values(row.method, row.variant or protocol.variant, row.options)  # type: ignore[arg-type]
    assert {key: values[key] for key in row.options} == dict(row.options)


@pytest.mark.parametrize(("protocol", "name"), DATASETS)
def test_a_data_sets_options_are_its_readers(protocol: Protocol, name: str) -> None:
    dataset = protocol.datasets[name]
    if dataset.reader not in READERS:
        pytest.skip(f"{dataset.reader} is not there yet")
    described = describe(dataset.reader, dataset.options)
    assert {key: described["options"][key] for key in dataset.options} == dict(dataset.options)
