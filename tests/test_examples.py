"""Every example runs as its first lines say."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ti_backbones import o2
from ti_backbones.images import disc_mask

FOLDER = Path(__file__).parent.parent / "examples"
ARGUMENTS = {"digits": ("--quick", "--json", "digits.json", "--figure", "digits.png")}
SLOW = {"digits"}
SAYS = {"wrap_any_model": "the same latent: True", "digits": "| TI: equivariant head |"}
EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))
    for path in sorted(FOLDER.glob("*.py"))
]


@pytest.mark.parametrize("path", EXAMPLES)
def test_example_runs(path, tmp_path):
    arguments = ARGUMENTS.get(path.stem, ())
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert SAYS[path.stem] in done.stdout
    for name in (a for a in arguments if not a.startswith("--")):
        assert (tmp_path / name).stat().st_size


@pytest.fixture(scope="module")
def digits():
    spec = importlib.util.spec_from_file_location("digits", FOLDER / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_axes_point_where_the_picture_went(digits):
    """A bright spot below the centre, and one beside it, seen after the turn: measured on the pixels."""
    pictures = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pictures[0, :, 15:17, 24:27] = 255  # right
    pictures[1, :, 24:27, 15:17] = 255  # down
    g = o2.sample(16, torch.Generator().manual_seed(0))
    encoder = digits.TIBackbone(**digits.ENCODER).encoder
    at = torch.arange(32) - 15.5
    for axis in range(2):
        seen = digits.turned(encoder, pictures[axis].expand(16, -1, -1, -1), g).mean(1)
        light = (seen - seen.flatten(1).min(1).values[:, None, None]) * disc_mask(32)
        spot = torch.stack([(light * at).sum((1, 2)), (light * at[:, None]).sum((1, 2))], 1)
        off = torch.nn.functional.cosine_similarity(spot, digits.true_axes(g)[:, axis])
        assert off.min() > 0.999


def test_digits_errors_are_those_of_the_angle(digits):
    """Axes that are turned 30 degrees too far are 30 degrees wrong; mirrored ones have the wrong side."""
    g = o2.sample(64, torch.Generator().manual_seed(1))

    def judge(element: o2.Element) -> dict[str, float]:
        outputs = torch.cat([digits.true_axes(element), torch.zeros(64, 2, 1)], 2).flatten(1)
        return digits.errors(torch.nn.Identity(), outputs, g)

    assert judge(g) == pytest.approx({"median": 0, "mean": 0, "side": 100}, abs=1e-3)
    turn = o2.element(angle=torch.pi / 6, batch=64)
    assert judge(turn @ g) == pytest.approx({"median": 30, "mean": 30, "side": 100}, abs=1e-3)
    assert judge(g @ o2.element(flip=True, batch=64)) == pytest.approx({"median": 0, "mean": 0, "side": 0}, abs=1e-3)


def test_digits_page_is_what_was_measured(digits):
    results = FOLDER.parent / "hub" / "results"
    r = json.loads((results / "digits.json").read_text())
    scores = {method: {int(n): errors for n, errors in row.items()} for method, row in r["scores"].items()}
    assert digits.report(r["gains"], scores, r["plan"], r["split"]) + "\n" == (results / "digits.md").read_text()


def test_digits_says_what_it_needs():
    code = f"import runpy, sys; sys.modules['sklearn'] = None; runpy.run_path({str(FOLDER / 'digits.py')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert done.stderr.strip() == "this example needs scikit-learn: pip install 'ti-backbones[examples]'"
