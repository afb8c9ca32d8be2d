"""Papers' protocols as data: recipes, data sets, splits, tables and the published numbers. Standard library only."""

from ferbench.protocols.cells import Cell, cells, select
from ferbench.protocols.loader import load_protocol, protocol_names
from ferbench.protocols.schema import (
    NONE,
    PUBLISHED_ONLY,
    REST,
    Claim,
    Column,
    Dataset,
    Option,
    PretrainingRecipe,
    Protocol,
    ProtocolError,
    Published,
    Recipe,
    Row,
    Split,
    Table,
)

__all__ = [
    "NONE",
    "PUBLISHED_ONLY",
    "REST",
    "Cell",
    "Claim",
    "Column",
    "Dataset",
    "Option",
    "PretrainingRecipe",
    "Protocol",
    "ProtocolError",
    "Published",
    "Recipe",
    "Row",
    "Split",
    "Table",
    "cells",
    "load_protocol",
    "protocol_names",
    "select",
]
