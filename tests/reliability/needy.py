"""A table whose runs need each other: stages, what starts from them, candidate models, what learns from their sets."""

from __future__ import annotations

from pathlib import Path

from reliability.lives import row, write_protocol

ROWS = [
    row("vanilla"),
    row("fixmatch"),
    row("remop", 'after = { method = "vanilla", recipe = "long" }'),
    row("ssfer", 'after = { method = "vanilla", recipe = "long" }'),
    row("rc"),  # learns from sets that a model's predictions make
]
MORE = """
[recipes.long]
extends = "r"
epochs = {epochs}
[candidates.c]
kind = "topk_model"
options = {{ k = 2 }}
"""


def write_needy(folder: Path, rows: list[str] = ROWS, stage_epochs: int = 5, **recipe: object) -> Path:
    """Seven runs for a seed. stage_epochs: of the stage; recipe: keys of all others set otherwise."""
    path = write_protocol(folder, rows, **recipe) / "protocol.toml"
    more = MORE.format(epochs=stage_epochs)
    text = path.read_text(encoding="utf-8").replace("[presets.cpu]", f"{more}\n[presets.cpu]")
    path.write_text(text.replace("seeds = [1]", "seeds = [1, 2, 3]") + 'candidates = "c"\n', encoding="utf-8")
    return folder
