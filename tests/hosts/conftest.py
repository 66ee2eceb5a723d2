"""What the host tests share: a hub of model folders, who is skipped and why, and the results for the host matrix.

`pytest tests/hosts --host-results FILE` adds what this run found to FILE; `matrix.py` makes the table of it.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import pytest
import timm
import torch
from hosting import BASES
from matrix import HOSTS, RESULTS
from torch import nn

from ti_backbones import TIBackbone

HERE = Path(__file__).parent
OUTCOMES = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--host-results", type=Path, help=f"JSON file to add outcomes to, for the matrix: {RESULTS}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("hosts")
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose host is not installed, or cannot be imported here."""
    for mark in item.iter_markers("host"):
        host = HOSTS[mark.args[0]]
        missing = [package for package in host.packages if version(package) is None]
        if missing:
            pytest.skip(f"{', '.join(missing)} not installed: {host.installation}")
        if host.clash and all(version(package) for package in host.clash):
            pytest.skip(f"{host.packages[0]} does not import beside both {' and '.join(host.clash)}: leave one out")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    mark = item.get_closest_marker("host")
    if mark and (report.when == "call" or report.outcome != "passed"):
        found = item.config.stash[OUTCOMES].setdefault(mark.args[0], {})
        # a failure in the teardown counts, whatever came before
        found[item.name] = report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--host-results", None)
    ran = {h: o for h, o in session.config.stash[OUTCOMES].items() if set(o.values()) - {"skipped"}}
    if not path or not ran:
        return
    results = json.loads(path.read_text()) if path.is_file() else {}
    for host, outcomes in ran.items():
        shown = ("ti-backbones", "timm", "torch", *HOSTS[host].packages)
        versions = {package: version(package) for package in shown} | {"python": platform.python_version()}
        results[host] = {"versions": versions, "tests": dict(sorted(outcomes.items()))}
    path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def version(package: str) -> str | None:
    """The installed version of a distribution, None if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """A folder of model folders that `pretrained=True` finds, one for each of BASES, with weights of their own."""
    folder = tmp_path_factory.mktemp("hub")
    for base in BASES:
        ti = TIBackbone(base, latent_config={"rank": 8})
        with torch.no_grad():  # timm starts residual branches at zero: away from there, so that all of it works
            for p in ti.encoder.parameters():
                p.add_(0.02 * torch.randn_like(p))
        ti.save_pretrained(folder / f"ti_{base}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TI_BACKBONES_HUB", str(folder))
        yield folder


@pytest.fixture
def published(hub: Path, base: str) -> nn.Module:
    """The encoder of a published model as timm alone loads it: what every host must reproduce."""
    return timm.create_model(f"local-dir:{hub / f'ti_{base}'}", pretrained=True).eval()
