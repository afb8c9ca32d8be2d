"""Build the wheel, install it into a clean environment outside the checkout, and use it there: `make wheel`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT), cwd=folder)
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "clean", with_pip=False, symlinks=True)
        python = folder / "clean" / "bin" / "python"
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "clean")}))
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
        run(*install, str(wheel), cwd=folder)
        # The dependencies come from this environment; its editable install of ferbench does not come along, since
        # Python follows .pth files in site folders only, and a line of a .pth file is not one.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        where = run(str(python), "-c", "import ferbench; print(ferbench.__file__)", cwd=folder)
        assert where.startswith(str(folder.resolve())), f"not the wheel's copy: {where}"
        load = "from ferbench.protocols import *; print([load_protocol(name).name for name in protocol_names()])"
        print(run(str(python), "-c", load, cwd=folder))
        step = ["--recipe", "epochs=1", "--recipe", "steps_per_epoch=1", "--data-option", "scale=0.05"]
        split = ["--split", "balanced:per_class=2"]
        cli = "from ferbench.bench.cli import main; main()"
        print(run(str(python), "-c", cli, "train", "remop", *split, *step, cwd=folder))


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "FERBENCH_CACHE": str(cwd / "cache")}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout.strip()


if __name__ == "__main__":
    main()
