"""timm's own tests/test_models.py, run as it is on `ti_*` twins.

This file is a pytest plugin (`-p timm_suite`) and what starts it. timm's file selects models by
parametrising over names; here every such selection, listed or written out, holds `ti_X` where it held X, for
the X of BASES, and nothing else. timm's file is not touched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import timm

import ti_backbones  # noqa: F401  (registers the twins)

BASES = (
    "resnet18",
    "resnet50",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
)
SDIST_VARIABLE = "TI_BACKBONES_TIMM_SDIST"


# --- The plugin ------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.own_markers
    marks[:] = [_of_twins(mark) if mark.name == "parametrize" else mark for mark in marks]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not about a twin: tests without a model, or of models that are not in BASES."""
    is_twin = [hasattr(i, "callspec") and str(i.callspec.params.get("model_name")).startswith("ti_") for i in items]
    config.hook.pytest_deselected(items=[i for i, twin in zip(items, is_twin, strict=True) if not twin])
    items[:] = [i for i, twin in zip(items, is_twin, strict=True) if twin]


def _of_twins(mark: pytest.Mark) -> pytest.Mark:
    """A parametrize mark with `ti_X` for every X of BASES among its model names, and no other models."""
    names, values, *rest = mark.args
    names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    if "model_name" not in names:
        return mark
    column = names.index("model_name")
    twins = []
    for value in values:
        row = [value] if len(names) == 1 else list(value)
        base = timm.models.get_arch_name(row[column])  # tags name timm's weights, which a twin does not have
        row[column] = f"ti_{base}"
        if base in BASES and row not in twins:
            twins.append(row)
    values = [row[0] if len(names) == 1 else tuple(row) for row in twins]
    return pytest.mark.parametrize(names if len(names) > 1 else names[0], values, *rest, **mark.kwargs).mark


# --- Starting it -----------------------------------------------------------------------------------------------------


def fetch_timm_tests(folder: Path) -> Path:
    """The tests of the installed timm version, from its source distribution.

    Args:
        folder: where the distribution is kept, for the next time.

    Returns:
        A folder with timm's pyproject.toml and tests/, but not timm itself: the installed one is tested.
    """
    release = f"timm-{timm.__version__}"
    sdist = Path(os.environ.get(SDIST_VARIABLE) or folder / f"{release}.tar.gz")
    if not sdist.is_file():
        # pip checks the file against the index's sha256
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        subprocess.run([*command, "--dest", str(folder), f"timm=={timm.__version__}"], check=True)
    with tarfile.open(sdist) as archive:
        wanted = (f"{release}/tests/", f"{release}/pyproject.toml")
        archive.extractall(folder, [m for m in archive if m.name.startswith(wanted)], filter="data")
    return folder / release


def run_timm_tests(folder: Path, report: Path, hub: Path) -> tuple[dict[str, int], list[str]]:
    """Run timm's test_models.py on the twins in a process of its own.

    Args:
        folder: from `fetch_timm_tests`.
        report: the JUnit file to write.
        hub: a folder of model folders, for the tests with pretrained=True.

    Returns:
        Number of tests by outcome (passed, failed, skipped), and the names of those that failed.
    """
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "TI_BACKBONES_HUB": str(hub), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "timm_suite", "-p", "no:cacheprovider", "--disable-warnings"]
    subprocess.run([*command, f"--junitxml={report}", "tests/test_models.py"], cwd=folder, env=env, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [c.attrib["name"] for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    counts = {"passed": len(cases) - len(failed) - skipped, "failed": len(failed), "skipped": skipped}
    return counts, failed
