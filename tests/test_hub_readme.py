"""The README and the results' pages say what the committed results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub.readme import COMPARISON, ROOT, comparison, made
from ti_backbones.compare.report import Report, summarise
from ti_backbones.errors import InputError


def test_the_readme_is_what_the_results_say():
    text = (ROOT / "README.md").read_text()
    assert made(text) == text, "run python -m hub.readme"


def test_the_comparison_s_table_is_that_of_its_report_and_its_cells():
    report = Report(**json.loads(COMPARISON.read_text()))
    assert (COMPARISON.parent / "table.md").read_text() == f"{report.table(markdown=True)}\n"
    cells = [json.loads(path.read_text()) for path in sorted((COMPARISON.parent / "cells").glob("*.json"))]
    assert summarise(cells, report.title).to_json() == report.to_json()


def test_blocks_are_made_between_their_markers_and_the_rest_stays():
    begin, end = "<!-- a: made by python -m hub.readme -->", "<!-- /a -->"
    text = f"before\n{begin}\nold\n{end}\nafter\n"
    new = made(text, {"a": lambda: "new"})
    assert new == f"before\n{begin}\nnew\n{end}\nafter\n"
    assert made(new, {"a": lambda: "new"}) == new
    for lacking in ("nothing", begin, f"{end} {begin}"):
        with pytest.raises(InputError, match="has no '<!-- a:"):
            made(lacking, {"a": lambda: "new"})


def test_check_writes_nothing_and_says_whether_it_would(tmp_path: Path):
    readme = tmp_path / "README.md"
    for text, code in (((ROOT / "README.md").read_text(), 0), ("no markers", 2)):
        readme.write_text(text)
        arguments = [sys.executable, "-m", "hub.readme", "--check", "--readme", str(readme)]
        ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == code
        assert ended.stderr.count("\n") == (code == 2)
        assert readme.read_text() == text
    readme.write_text((ROOT / "README.md").read_text().replace("| scratch |", "| Scratch |"))
    arguments = [sys.executable, "-m", "hub.readme", "--check", "--readme", str(readme)]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == 1


def test_the_comparison_in_short():
    """Numbers of a report of two rows, one of which was not run on every share."""

    def tuned(mpjpe: float, reached: float | None) -> dict:
        spread = {k: {"mean": v, "sd": None} for k, v in (("mpjpe", 2.0), ("pa_mpjpe", 0.5))}
        errors = {"mpjpe": {"mean": mpjpe, "sd": 1.0}, "pa_mpjpe": {"mean": mpjpe / 4, "sd": 0.25}}
        return {
            **errors,
            "spread": spread,
            "target": 70.0,
            "epochs_to_target": reached,
            "curve": {"epoch": [1.0, 19.0]},
        }

    rows = [
        {
            "name": "scratch",
            "finetuning": {"10 %": tuned(80, 19.0), "1 %": tuned(90, None)},
            "certificate": {"gain": -1.0},
        },
        {"name": "ti-o2, equivariant", "finetuning": {"10 %": tuned(60, 7.0)}, "certificate": {"gain": 0.9}},
    ]
    lines = comparison({"rows": rows, "reference": {"hand_pa_mpjpe": 15.5}}).splitlines()
    assert lines[2] == "| scratch | MLP | 90.0 / 22.5 ± 0.2 | 80.0 / 20.0 ± 0.2 | 2.0 / 0.5 | 19 of 19 | -1.00 |"
    assert lines[3] == "| ti-o2 | equivariant | not run | 60.0 / 15.0 ± 0.2 | 2.0 / 0.5 | 7 of 19 | 0.90 |"
    assert "PA 15.5" in lines[4]
