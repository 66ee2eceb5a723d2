"""timm's own model tests pass on the twins of eight architectures."""

from pathlib import Path

import pytest
import timm
from timm.models._hub import save_for_hf
from timm_suite import BASES, fetch_timm_tests, run_timm_tests


@pytest.mark.slow
def test_timm_own_tests_pass_on_the_twins(request: pytest.FixtureRequest, tmp_path: Path):
    hub = tmp_path / "hub"
    for base in BASES:
        save_for_hf(timm.create_model(f"ti_{base}"), hub / f"ti_{base}", safe_serialization=True)
    folder = fetch_timm_tests(request.config.cache.mkdir("timm_sdist"))

    counts, failed = run_timm_tests(folder, tmp_path / "report.xml", hub)

    print("timm's test_models.py on eight twins:", counts)
    assert not failed, failed
    assert counts["passed"] >= 16 * len(BASES), counts  # so that nothing passes for want of tests
