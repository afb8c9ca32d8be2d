"""The loader: what a protocol file may say, and one clear line for everything it may not."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ferbench.protocols import Protocol, ProtocolError, load_protocol, protocol_names
from ferbench.protocols.loader import FOLDER

BASE = """
paper = "tiny"
title = "A tiny protocol"
citation = "nobody"
version = 3

[recipes.base]
backbone = "resnet18"
batch_size = 16
epochs = 2
steps_per_epoch = 5
lr = 1

[recipes.long]
extends = "base"
epochs = 9

[presets.paper]
[presets.cpu]
backbone = "resnet_small"
lr = 1e-3

[datasets.faces]
reader = "synthetic"
options = { scale = 0.4 }

[splits.tail]
kind = "long_tailed"
n1 = 20
gamma = 5

[[tables]]
id = "1"
caption = "c"
source = "s"
metrics = ["overall"]
seeds = [1, 2]

[[tables.rows]]
id = "fixmatch"
label = "FixMatch"
method = "fixmatch"

[[tables.columns]]
id = "faces"
label = "Faces"
dataset = "faces"
split = "tail"
recipe = "long"
"""
NUMBERS = "row,column,metric,mean,std\nfixmatch,faces,overall,71.25,0.5\n"


def write(folder: Path, toml: str = BASE, numbers: str | None = NUMBERS) -> Path:
    (folder / "protocol.toml").write_text(toml, encoding="utf-8")
    if numbers is not None:
        (folder / "table1.csv").write_text(numbers, encoding="utf-8")
    return folder


def message(folder: Path) -> str:
    with pytest.raises(ProtocolError) as caught:
        load_protocol(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_values_types_and_defaults(tmp_path: Path) -> None:
    protocol = load_protocol(write(tmp_path))
    assert (protocol.name, protocol.version, protocol.variant, protocol.default_preset) == ("tiny", 3, "paper", "paper")
    table = protocol.tables[0]
    assert (table.kind, table.seeds, table.metrics) == ("table", (1, 2), ("overall",))
    assert table.columns[0].unlabelled == ("rest",)
    assert table.published[("fixmatch", "faces", "overall")].mean == 71.25
    assert table.published[("fixmatch", "faces", "overall")].std == 0.5
    assert protocol.splits["tail"].options == {"n1": 20, "gamma": 5.0}
    assert protocol.datasets["faces"].options == {"scale": 0.4}
    assert isinstance(protocol.recipes["base"].lr, float)


def test_extends_takes_what_is_not_set(tmp_path: Path) -> None:
    recipes = load_protocol(write(tmp_path)).recipes
    assert (recipes["base"].epochs, recipes["long"].epochs) == (2, 9)
    assert recipes["long"].steps_per_epoch == 5


def test_preset_overrides_every_recipe(tmp_path: Path) -> None:
    protocol = load_protocol(write(tmp_path))
    assert protocol.recipe("long", "paper") == protocol.recipes["long"]
    small = protocol.recipe("long", "cpu")
    assert (small.backbone, small.lr, small.epochs) == ("resnet_small", 1e-3, 9)
    with pytest.raises(ProtocolError, match="tiny has no preset 'gpu'; it has: paper, cpu"):
        protocol.recipe("long", "gpu")


def test_a_preset_that_extends_another_takes_along_what_stands_elsewhere_of_it(tmp_path: Path) -> None:
    more = """
[presets.start]
extends = "cpu"
weights = "mine"
[method_options.cpu.remop]
center_lr = 1e-2
[method_options.cpu.lion]
relabel_epoch = 5
[method_options.start.lion]
relabel_epoch = 2
[off_pace.cpu]
ema = "why"
[datasets.faces]
"""
    protocol = load_protocol(write(tmp_path, BASE.replace("[datasets.faces]", more, 1)))
    started, small = protocol.recipe("long", "start"), protocol.recipe("long", "cpu")
    assert vars(started) == {**vars(small), "weights": "mine"}
    assert protocol.method_options["start"] == {"remop": {"center_lr": 1e-2}, "lion": {"relabel_epoch": 2}}
    assert protocol.off_pace["start"] == {"ema": "why"}
    assert not {"paper", "paper-bf16"} & protocol.method_options.keys()


WRONG = {
    "misspelt recipe key": ("epochs = 2", "epoch = 2", "recipes.base: unknown key 'epoch'; did you mean 'epochs'?"),
    "misspelt top key": ("title =", "titel =", "unknown key 'titel'; did you mean 'title'?"),
    "misspelt row key": ('method = "fix', 'metod = "fix', "tables[1].rows[fixmatch]: unknown key 'metod'"),
    "strange key": ("seeds = [1, 2]", "seeds = [1, 2]\nzzz = 1", "unknown key 'zzz'; valid: id, caption"),
    "loader's own key": ("version = 3", 'version = 3\nhash = "0"', "unknown key 'hash'"),
    "missing key": ("batch_size = 16", "", "recipes.base: missing key 'batch_size'"),
    "string for a number": ("epochs = 2", 'epochs = "2"', "recipes.base.epochs: expected a whole number, got '2'"),
    "true for a number": ("epochs = 2", "epochs = true", "recipes.base.epochs: expected a whole number, got True"),
    "zero epochs": ("epochs = 2", "epochs = 0", "recipes.base.epochs: must be at least 1, got 0"),
    "rate of zero": ("lr = 1\n", "lr = 0\n", "recipes.base.lr: must be above 0.0, got 0.0"),
    "averaging by one": ("lr = 1\n", "lr = 1\nema = 1.0\n", "recipes.base.ema: must be below 1.0"),
    "unknown optimizer": ("lr = 1\n", 'lr = 1\noptimizer = "adm"\n', "'adm' is not known; did you mean 'adam'?"),
    "preset key": ("lr = 1e-3", "learning_rate = 1e-3", "presets.cpu: unknown key 'learning_rate'; valid"),
    "preset value": ("lr = 1e-3", "lr = -1", "presets.cpu.lr: must be above 0.0, got -1"),
    "preset key of a recipe": ("lr = 1e-3", '"long.rate" = 1e-3', "presets.cpu: unknown key 'rate'; valid"),
    "preset of no recipe": ("lr = 1e-3", '"lnog.lr" = 1e-3', "presets.cpu.lnog.lr: no 'lnog'; did you mean 'long'?"),
    "no preset": ("[presets.paper]\n[presets.cpu]", "[recipes.other]\nextends = 'base'", "missing key 'presets'"),
    "unknown base of a preset": ("lr = 1e-3", 'extends = "cpuu"', "presets.cpu.extends: no 'cpuu' in this file"),
    "unknown base": ('extends = "base"', 'extends = "bas"', "recipes.long.extends: no 'bas' in this file"),
    "unknown data set": ('dataset = "faces"', 'dataset = "face"', "dataset: no 'face'; did you mean 'faces'?"),
    "unknown split": ('split = "tail"', 'split = "tale"', "columns[faces].split: no 'tale'; did you mean 'tail'?"),
    "unknown recipe": ('recipe = "long"', 'recipe = "lnog"', "columns[faces].recipe: no 'lnog'; did you mean 'long'?"),
    "unknown split kind": ('"long_tailed"', '"longtailed"', "splits.tail.kind: 'longtailed' is not known; did"),
    "split lacks key": ("gamma = 5", "", "splits.tail: a long_tailed split needs 'gamma'"),
    "split has another's key": ("gamma = 5", "gamma = 5\nper_class = 4", "'per_class' does not belong to a long"),
    "row without method": ('method = "fixmatch"', "", "rows[fixmatch]: needs a method, or status = 'published-only'"),
    "unprintable id": ('id = "fixmatch"', 'id = "Fix/Match"', "'Fix/Match' may hold only a-z, 0-9"),
    "no seeds": ("seeds = [1, 2]", "seeds = []", "tables[1]: metrics and seeds may not be empty"),
    "not TOML": ("version = 3", "version = ", "cannot be read"),
}


@pytest.mark.parametrize(("old", "new", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_file_is_one_line_with_file_and_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert BASE.count(old) >= 1
    text = message(write(tmp_path, BASE.replace(old, new, 1)))
    assert expected in text
    assert "protocol.toml" in text


CLAIM = """
[[claims]]
id = "better"
says = "FixMatch over itself, by two rules"
tables = ["1"]
first = "fixmatch"
second = "fixmatch@linear"
presets = ["paper", "cpu"]
published = ["1/fixmatch/faces", "1/fixmatch/faces"]
"""
WRONG_CLAIMS = {
    "unknown table": ('["1"]', '["2"]', "claims[better].tables: no '2'; valid: 1"),
    "no tables": ('["1"]', "[]", "claims[better].tables: may not be empty"),
    "unknown row": ('"fixmatch@', '"fixmach@', "claims[better].second: 1: no 'fixmach'; did you mean 'fixmatch'?"),
    "one preset": ('["paper", "cpu"]', '["cpu"]', "claims[better].presets: needs two, for the first row"),
    "unknown preset": ('"cpu"]', '"cup"]', "claims[better].presets: no 'cup'; did you mean 'cpu'?"),
    "unprinted cell": ('h/faces"]', 'h/fcaes"]', "claims[better].published: no 'fixmatch/fcaes'; did you mean"),
    "no such table": ('["1/', '["3/', "claims[better].published: no '3'"),
    "unknown key": ("says", "say", "claims[better]: unknown key 'say'"),
    "twice": ('id = "better"', 'id = "better"\nsays = "s"\ntables = ["1"]\nfirst = "fixmatch"\nsecond = "fixmatch"\n'
              '[[claims]]\nid = "better"', "claims: id 'better' is used twice"),
}  # fmt: skip


def test_a_claim(tmp_path: Path) -> None:
    (claim,) = load_protocol(write(tmp_path, BASE + CLAIM)).claims
    assert (claim.first, claim.second, claim.presets) == ("fixmatch", "fixmatch@linear", ("paper", "cpu"))


@pytest.mark.parametrize(("old", "new", "expected"), WRONG_CLAIMS.values(), ids=WRONG_CLAIMS)
def test_a_wrong_claim_is_one_line_with_its_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in CLAIM
    assert expected in message(write(tmp_path, BASE + CLAIM.replace(old, new, 1)))


def test_a_preset_may_set_one_recipe_otherwise(tmp_path: Path) -> None:
    text = BASE.replace("lr = 1e-3", 'lr = 1e-3\n"long.lr" = 1e-4', 1)
    protocol = load_protocol(write(tmp_path, text))
    assert [protocol.recipe(name, "cpu").lr for name in ("base", "long")] == [1e-3, 1e-4]
    assert protocol.recipe("long", "paper").lr == 1


def test_extends_has_one_level(tmp_path: Path) -> None:
    toml = BASE.replace("[presets.paper]", '[recipes.longer]\nextends = "long"\n\n[presets.paper]')
    assert "recipes.longer.extends: 'long' extends another itself; only one level" in message(write(tmp_path, toml))


WRONG_NUMBERS: dict[str, tuple[str | None, str]] = {
    "no file": (None, "tables[1]: fixmatch/faces has no published number; add it, or say why in `absent`"),
    "empty": ("", "the first line must be row,column,metric,mean,std"),
    "other header": ("row,column,mean,std\n", "the first line must be row,column,metric,mean,std"),
    "unknown row": (NUMBERS.replace("fixmatch", "fixmach"), "table1.csv:2: row: no 'fixmach'; did you mean 'fixm"),
    "unknown column": (NUMBERS.replace("faces", "fcaes"), "table1.csv:2: column: no 'fcaes'; did you mean 'faces'"),
    "unknown metric": (NUMBERS.replace("overall", "over-all"), "table1.csv:2: metric: no 'over-all'; did you mean"),
    "not a number": (NUMBERS.replace("71.25", "71,25"), "table1.csv:2: expected 5 values, got 6"),
    "a dash": (NUMBERS.replace("71.25", "-"), "table1.csv:2: mean and std must be numbers, got '-' and '0.5'"),
    "twice": (NUMBERS + "fixmatch,faces,overall,71.25,0.5\n", "table1.csv:3: fixmatch/faces/overall is given twice"),
}


@pytest.mark.parametrize(("numbers", "expected"), WRONG_NUMBERS.values(), ids=WRONG_NUMBERS)
def test_wrong_numbers(tmp_path: Path, numbers: str | None, expected: str) -> None:
    assert expected in message(write(tmp_path, numbers=numbers))


def test_absent_excuses_a_cell_but_not_a_printed_one(tmp_path: Path) -> None:
    toml = BASE.replace("seeds = [1, 2]", 'seeds = [1, 2]\nabsent = [{ row = "fixmatch", why = "lost" }]')
    assert "has published numbers and an `absent` entry" in message(write(tmp_path, toml))
    (tmp_path / "table1.csv").unlink()
    assert load_protocol(tmp_path).tables[0].absent[0].why == "lost"
    toml = toml.replace('row = "fixmatch", why', 'row = "fixmach", why')
    assert "absent.row: no 'fixmach'; did you mean 'fixmatch'?" in message(write(tmp_path, toml, None))


def test_published_only_table_needs_no_data(tmp_path: Path) -> None:
    head, _, _ = BASE.partition("[[tables.rows]]")
    rest = '[[tables.rows]]\nid = "sota"\nlabel = "SOTA"\n[[tables.columns]]\nid = "faces"\nlabel = "Faces"\n'
    numbers = NUMBERS.replace("fixmatch", "sota")
    assert "rows[sota]: needs a method" in message(write(tmp_path, head + rest, numbers))
    toml = head.replace('source = "s"', 'source = "s"\nstatus = "published-only"') + rest
    assert load_protocol(write(tmp_path, toml, numbers)).tables[0].published


def test_hash_follows_content_and_not_line_ends(tmp_path: Path) -> None:
    before = load_protocol(write(tmp_path)).hash
    assert len(before) == 64
    for file in ("protocol.toml", "table1.csv"):
        path = tmp_path / file
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_protocol(tmp_path).hash == before
    assert load_protocol(write(tmp_path, numbers=NUMBERS.replace("71.25", "71.26"))).hash != before
    assert load_protocol(write(tmp_path, BASE.replace("nobody", "somebody"))).hash != before
    (tmp_path / "unrelated.csv").write_text("x", encoding="utf-8")
    assert load_protocol(write(tmp_path)).hash == before


def test_hash_and_content_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "remop", tmp_path / "copy")
    original, copy = load_protocol("remop"), load_protocol(tmp_path / "copy" / "protocol.toml")
    assert (original.hash, original.tables) == (copy.hash, copy.tables)


def test_unknown_name() -> None:
    with pytest.raises(ProtocolError, match="no protocol 'remopp'; did you mean 'remop'?"):
        load_protocol("remopp")


@pytest.mark.parametrize("name", protocol_names())
def test_packaged_protocol_loads_under_its_folder_name(name: str) -> None:
    protocol = load_protocol(name)
    assert isinstance(protocol, Protocol)
    assert protocol.name == name


def test_standard_library_only() -> None:
    code = "import sys, ferbench.protocols as p; p.load_protocol('remop'); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.timing
def test_all_protocols_load_in_a_tenth_of_a_second() -> None:
    def once() -> float:
        start = time.process_time()
        for name in protocol_names():
            load_protocol(name)
        return time.process_time() - start

    assert min(once() for _ in range(5)) < 0.1


def test_the_paper_s_preset_in_half_precision_is_one_of_its_own(tmp_path: Path) -> None:
    """The paper's recipe but for its arithmetic; where the file has one of that name, or no paper's, it is not made."""
    protocol = load_protocol(write(tmp_path))
    assert list(protocol.presets) == ["paper", "cpu", "paper-bf16"]
    paper, half = (protocol.recipe("long", preset) for preset in ("paper", "paper-bf16"))
    assert half == dataclasses.replace(paper, dtype="bfloat16") != paper
    own = load_protocol(write(tmp_path, BASE.replace("[presets.cpu]", "[presets.paper-bf16]\nlr = 2.0\n[presets.cpu]")))
    assert own.recipe("base", "paper-bf16").dtype == "float32"
    assert list(load_protocol("demo").presets) == ["cpu"]
