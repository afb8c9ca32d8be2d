"""Compile the ops' recorded launches for GPUs this machine need not have, and print what each kernel uses as JSON.

    python tests/kernels/compile_ahead.py OP/CASE@TARGET ...      compile these (see `CASES` in kernels/<op>/aot.py)
    python tests/kernels/compile_ahead.py --write [OP ...]        compile all (of some ops) and widen budget.csv

The budget is the most that the supported Tritons need, and the narrowest load and least use of the matrix unit of any:
`--write` under each of them widens it. To shrink it, delete an op's lines first.

It runs in a process of its own because a Triton that interprets kernels cannot compile them.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import ferbench.kernels
from ferbench.kernels.dispatch import Launch, recording, triton_type

TARGETS = {
    "sm80": GPUTarget("cuda", 80, 32),
    "sm86": GPUTarget("cuda", 86, 32),
    "sm89": GPUTarget("cuda", 89, 32),
    "sm90": GPUTarget("cuda", 90, 32),
    "sm100": GPUTarget("cuda", 100, 32),
    "sm120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TIGHT = ("sm86", "sm89", "sm120")
"""Targets with 99 KiB of shared memory a block, compiled for only where that may be too little."""
SHARED_BY = ("contrast/", "center_etf/pairs", "center_etf/gram")
"""How the names of cases begin that hold tiles in shared memory."""
BUDGET = Path(__file__).with_name("budget.csv")
POINTERS = {torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8", torch.bool: "i1"}
MATRIX_UNIT = re.compile(r"mma\.sync|wgmma|tcgen05|v_mfma")


def all_cases() -> dict[str, Any]:
    """`op/case` to the call that launches it, from every op folder that has an `aot.py`."""
    cases = {}
    for module in pkgutil.iter_modules(ferbench.kernels.__path__):
        folder = Path(ferbench.kernels.__path__[0], module.name)
        if (folder / "aot.py").exists():
            aot = importlib.import_module(f"ferbench.kernels.{module.name}.aot")
            cases |= {f"{module.name}/{name}": call for name, call in aot.CASES.items()}
    return cases


def targets_of(case: str) -> list[str]:
    """The targets that `op/case` is compiled for."""
    return [target for target in TARGETS if target not in TIGHT or case.startswith(SHARED_BY)]


def source(launch: Launch) -> ASTSource:
    """The specialisation that Triton's launcher would choose for these arguments."""
    signature, constants, attributes = {}, {}, {}
    values = dict(zip((p.name for p in launch.kernel.params), launch.args, strict=False)) | launch.options
    for i, parameter in enumerate(launch.kernel.params):
        value = values[parameter.name]
        free = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (free and isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(i,)] = value
        elif isinstance(value, torch.Tensor):
            kind = POINTERS.get(value.dtype)
            signature[parameter.name] = "*" + (kind or triton_type(value.dtype).name)
            if value.data_ptr() % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = parameter.annotation_type or "fp32"
        else:
            signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
            if free and value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def seconds_used() -> float:
    """Seconds of processor time that this process and the tools it has called have taken: others' load is not in it."""
    return sum(os.times()[:4])


def nvidia_usage(compiled: Any) -> dict[str, int]:
    """Registers per thread, bytes of stack (spills) and instructions of a cubin, by the tools that Triton ships."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", "--dump-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = dict(re.findall(r"(REG|STACK):(\d+)", text))
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP)", text, re.MULTILINE))
    return {"registers": int(numbers["REG"]), "spill": int(numbers["STACK"]), "instructions": instructions}


def amd_usage(compiled: Any) -> dict[str, int]:
    """The same from an hsaco's assembly, of vector registers: scalar ones spill to lanes, not to memory."""
    text = compiled.asm["amdgcn"]
    numbers = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", text))
    instructions = len(re.findall(r"^\t(?:[vs]|ds|global|buffer|flat|scratch)_\w+", text, re.MULTILINE))
    usage = {"registers": "vgpr_count", "spill": "vgpr_spill_count"}
    return {name: int(numbers[key]) for name, key in usage.items()} | {"instructions": instructions}


def widest_load(compiled: Any, hip: bool) -> int:
    """Bits a thread gets by the widest load from global memory: 128 is what the hardware has, 32 is one float."""
    if hip:
        words = re.findall(r"(?:global|buffer)_load_(dword(?:x\d)?|b\d+|[us]?byte|[us]?short)", compiled.asm["amdgcn"])
        sizes = {"dword": 32, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128}
        return max(
            (sizes.get(w, int(w[1:]) if w[1:].isdigit() else 8 if "byte" in w else 16) for w in words), default=0
        )
    ptx = compiled.asm["ptx"]
    widths = [int(n or 1) * int(bits) for n, bits in re.findall(r"ld\.global(?:\.\w+)*?(?:\.v(\d))?\.[a-z](\d+)", ptx)]
    copies = [8 * int(size, 0) for size in re.findall(r"cp\.async\.\w+\.shared\.global[^;]*?\], (0x\w+|\d+)", ptx)]
    return max(widths + copies, default=0)


def compile_case(call: Any, target: str) -> list[dict[str, Any]]:
    """One row per kernel the call launches on `target`, in order."""
    with recording(target) as launches:
        call()
    rows = []
    for launch in launches:
        options = {k: v for k, v in launch.options.items() if k in ("num_warps", "num_stages", "num_ctas", "maxnreg")}
        begin = seconds_used()
        compiled = triton.compile(source(launch), target=TARGETS[target], options={"enable_fp_fusion": True, **options})
        seconds = seconds_used() - begin
        hip = TARGETS[target].backend == "hip"
        usage = amd_usage(compiled) if hip else nvidia_usage(compiled)
        matrix = bool(MATRIX_UNIT.search(compiled.asm["amdgcn" if hip else "ptx"]))
        rows.append(
            {
                "kernel": launch.kernel.__name__,
                **usage,
                "shared": compiled.metadata.shared,
                "matrix_unit": int(matrix),
                "widest_load": widest_load(compiled, hip),
                "seconds": round(seconds, 2),
            }  # fmt: skip
        )
    return rows


def allowance(row: dict[str, Any], target: str) -> dict[str, Any]:
    """The budget for a measured row: room for what two Triton versions differ by, but none for another spill."""
    most = 512 if target.startswith("gfx") else 255
    registers = min(most, -(-(row["registers"] + 16) // 16) * 16)
    return {**row, "registers": registers, "shared": -(-row["shared"] // 4096) * 4096}


def wider(new: list[dict[str, Any]], old: list[dict[str, str]]) -> list[dict[str, Any]]:
    """What covers two budgets of one launch; the new one where the kernels are no longer the same."""
    if [row["kernel"] for row in new] != [row["kernel"] for row in old]:
        return new
    sizes = ("registers", "shared", "spill")
    return [
        {
            **a,
            **{key: max(a[key], int(b.get(key) or 0)) for key in sizes},
            **{key: min(a[key], int(b.get(key) or 0)) for key in ("widest_load", "matrix_unit")},
        }
        for a, b in zip(new, old, strict=True)
    ]


def read_budget() -> dict[tuple[str, str], list[dict[str, str]]]:
    """Lines of budget.csv by case and target, in the order of the launches."""
    budget: dict[tuple[str, str], list[dict[str, str]]] = {}
    if BUDGET.exists():
        with BUDGET.open(newline="") as file:
            for line in csv.DictReader(file):
                budget.setdefault((line["case"], line["target"]), []).append(line)
    return budget


def write_budget(only: list[str]) -> None:
    """Widen budget.csv, or the rows of the ops in `only`, to what the kernels use now."""
    budget: dict[tuple[str, str], list[Any]] = dict(read_budget())
    for name, call in all_cases().items():
        if only and name.split("/")[0] not in only:
            continue
        for target in targets_of(name):
            used = compile_case(call, target)
            print(name, target, used, flush=True)
            rows = [{"case": name, "target": target, **allowance(row, target)} for row in used]
            budget[name, target] = wider(rows, budget.get((name, target), []))
    with BUDGET.open("w", newline="") as file:
        columns = ["case", "target", "kernel", "registers", "spill", "shared", "matrix_unit", "widest_load"]
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for key in sorted(budget) for row in budget[key])


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write_budget(sys.argv[2:])
    else:
        cases = all_cases()
        report = {}
        for wanted in sys.argv[1:]:
            name, target = wanted.split("@")
            try:
                report[wanted] = compile_case(cases[name], target)
            except Exception as error:  # one case that does not compile must not hide the others
                report[wanted] = [{"error": f"{type(error).__name__}: {error}"}]
        print(json.dumps(report))
