"""The speed benchmark runs, and says the same in its table as in its JSON. How fast anything is, no test says."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
NAMES = (
    *("paper", "paper-best", "gain", "step", "depthwise", "transform", "warp", "warp-quarter", "warp-flip"),
    *("inference", "finetune", "input", "processes", "memory", "import"),
)


def benchmarks(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS), "--threads", "1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_row_is_measured_and_the_table_says_what_the_json_says(tmp_path: Path):
    path, figure = tmp_path / "numbers.json", tmp_path / "gain.png"
    done = benchmarks("--quick", "--pairs", 1, "--scaling", "--json", path, "--figure", figure)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(path.read_text())
    rows = numbers["rows"]
    assert tuple(dict.fromkeys(row["name"] for row in rows)) == NAMES
    assert numbers["machine"]["threads"] == 1
    assert figure.read_bytes().startswith(b"\x89PNG")

    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.count(" | ") == 6]
    assert len(lines) == 1 + len(rows)
    for line, row in zip(lines[1:], rows, strict=True):
        ours, theirs = row["values"]["what"], row["values"]["against"]
        assert all(math.isfinite(value) and value > 0 for value in (*ours, *theirs)), row
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        assert row["ratio"] == statistics.median(ratios)
        assert row["spread"] == [min(ratios), max(ratios)]
        assert row["pairs"] == len(ratios)
        assert row["medians"] == {"what": statistics.median(ours), "against": statistics.median(theirs)}
        met = {True: "yes", False: "no", None: ""}[row["met"]]
        spread = f"{row['spread'][0]:.3f} to {row['spread'][1]:.3f}"
        said = [row["name"], row["what"], row["against"], f"{row['ratio']:.3f}", spread, row["must_reach"], met]
        assert [cell.strip() for cell in line] == said
        assert row["met"] is holds(row["ratio"], row["must_reach"]), row

    for name, scale in numbers["scaling"]["scales"].items():
        assert f"{name}: seconds grow with exponent {scale['exponent']:.2f}" in done.stdout
        assert all(math.isfinite(p["seconds"]) and p["seconds"] > 0 for p in scale["points"])
        (first, last), x = (math.log(scale["points"][i]["seconds"]) for i in (0, -1)), [p["x"] for p in scale["points"]]
        if len(x) == 2:  # a line through two points
            assert scale["exponent"] == pytest.approx((last - first) / math.log(x[1] / x[0]))
    power = -numbers["scaling"]["scales"]["processes"]["exponent"]
    for cost in numbers["scaling"]["dexycb_by_calculation"]:
        alone = next(c for c in numbers["scaling"]["dexycb_by_calculation"] if c["run"] == cost["run"])
        assert alone["devices"] == 1
        assert cost["hours_a_pass"] == pytest.approx(alone["hours_a_pass"] / cost["devices"] ** power)
        assert cost["hours_of_ten_passes"] == pytest.approx(10 * cost["hours_a_pass"])


def holds(ratio: float, bar: str) -> bool | None:
    """Whether a ratio is what the text of a bar asks for: ">= 12", "<= 1.1", "< 1", or two of them."""
    if not bar:
        return None
    tests = {">=": float.__ge__, "<=": float.__le__, "<": float.__lt__}
    return all(tests[sign](ratio, float(value)) for sign, value in (part.split() for part in bar.split(", ")))


@pytest.mark.parametrize("widest", [1.0231219, 1.0238, 1.1, 12.3456])
def test_a_bar_judges_by_the_numbers_that_it_prints_and_never_kindlier(widest: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    bar = import_module("paired").Bar(at_least=1 / widest, at_most=widest)
    for ratio in (*(end * (1 + k * 2e-5) for end in (1 / widest, widest) for k in range(-60, 61)), math.nan):
        assert bar.met(ratio) is holds(ratio, str(bar))
        assert not bar.met(ratio) or 1 / widest <= ratio <= widest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--only", "warp,speed"), "speed"),
        (("--pairs", "0"), "--pairs is 0"),
        (("--device", "abacus"), "abacus"),
        (("--figure", "missing/gain.png"), "missing"),
    ],
)
def test_options_that_cannot_be_used_are_named(arguments: tuple[str, ...], word: str):
    done = benchmarks(*arguments)
    assert done.returncode == 2
    assert word in done.stderr.splitlines()[-1]
    assert not done.stdout


def test_the_committed_page_says_what_the_committed_numbers_say():
    results = BENCHMARKS.parent.parent / "hub" / "results"
    page, numbers = (results / "speed.md").read_text(), json.loads((results / "speed.json").read_text())
    for row in numbers["rows"]:
        met = {True: "yes", False: "no", None: ""}[row["met"]]
        assert f"| {row['what']} | {row['against']} | {row['ratio']:.3f} |" in page
        assert f"| {row['must_reach']} | {met} |" in page
        assert row["met"] is holds(row["ratio"], row["must_reach"])
    assert {row["name"] for row in numbers["rows"]} == set(NAMES)
    for name, scale in numbers["scaling"]["scales"].items():
        assert f"{name}: seconds grow with exponent {scale['exponent']:.2f}" in page
