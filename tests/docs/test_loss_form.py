"""docs/extending/loss_form.md: the class of the page, added to a copy of search/learn/forms.py alone, searches."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/extending/loss_form.md"
PACKAGES = ("engine", "supernet", "latency", "search")
PROGRAM = """
import sys
from pathlib import Path
from search.learn.forms import FORMS, ExpectedCost
from search.loop import run_search

form = FORMS["augmented_lagrangian"](weight=2.0)
for kind in ("at", "below"):
    for share in (0.5, 0.9, 1.2):
        for dual in (0.0, 0.7):
            up, down = (form.value(1.0, [ExpectedCost(share * 3 + h, 3.0, kind, dual)]) for h in (1e-5, -1e-5))
            (slope,) = form.slopes(1.0, [ExpectedCost(share * 3, 3.0, kind, dual)]).limits
            assert abs(slope - (up - down) / 2e-5) < 1e-6, (kind, share, dual)
run_search(Path("search.yaml"), Path("run"))
"""


def test_a_form_added_to_one_file_searches_and_keeps_its_duals(tmp_path, tiny_search):
    """The test changes forms.py alone, in a copy of the packages."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    forms = tmp_path / "search/learn/forms.py"
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    text = forms.read_text().replace("\nFORMS: dict", f"\n{code}\n\nFORMS: dict")
    forms.write_text(text.replace("MulLog, Projection)", "MulLog, Projection, AugmentedLagrangian)"))
    (section,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    config = tiny_search | {"limits": [{"metric": "macs", "at": "40%"}, {"metric": "params", "below": "60%"}]}
    config["search"] = {**tiny_search["search"], **yaml.safe_load(section)["search"]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))

    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state = torch.load(max((tmp_path / "run/checkpoints").iterdir(), key=lambda f: f.name), weights_only=True)["search"]
    assert len(state["duals"]) == 2
    assert state["duals"][0] != 0
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == state["step"]
