"""A headless browser that does what a script says on a page: Debian's chromium, where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
Browser = Callable[..., Any]

PROBE = """
window.addEventListener("load", () => setTimeout(() => {
  const out = document.createElement("pre");
  out.id = "probe";
  const told = (() => { try { return (() => { %s })(); } catch (error) { return String(error); } })();
  out.textContent = JSON.stringify(told);
  document.body.append(out);
}, 50));
"""


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """Opens a page, runs the body of a script in it and returns what that returns; no message may be on its console."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")

    def open_page(page: Path, script: str, *flags: str, width: int = 1200, height: int = 900) -> Any:
        probed = tmp_path / f"probed-{page.name}"
        text = page.read_text(encoding="utf-8")
        probed.write_text(text.replace("</body>", f"<script>{PROBE % script}</script></body>"), encoding="utf-8")
        found = subprocess.run(
            [
                str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                "--dump-dom", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}",
                f"--window-size={width},{height}", *flags, probed.as_uri(),
            ],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        console = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
        assert not console, console
        answer = re.search(r'<pre id="probe">(.*?)</pre>', found.stdout, re.DOTALL)
        assert answer, found.stderr[-2000:]
        return json.loads(answer[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    return open_page
