"""The host matrix says what the results say, and 'not run' for everything else."""

import pytest
from matrix import HOSTS, table

VERSIONS = {"transformers": "5.0", "torch": "2.9", "timm": "1.0.31"}


def cells(results: dict, name: str = "transformers") -> list[str]:
    """The cells of a host's row."""
    (row,) = (line for line in table(results).splitlines() if line.startswith(f"| {HOSTS[name].title} |"))
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def of(**tests: str) -> dict:
    return {"transformers": {"versions": VERSIONS, "tests": {k.replace("__", "[") + "]": v for k, v in tests.items()}}}


def test_every_host_has_a_row_and_nothing_is_claimed_without_results():
    lines = table({}).splitlines()[2:]
    assert len(lines) == len(HOSTS)
    for name, host in HOSTS.items():
        assert cells({}, name)[2:4] == ["not run" if kind in host.models else "n/a" for kind in ("CNN", "ViT")]


@pytest.mark.parametrize(
    ("tests", "cnn", "vit"),
    [
        ({"test_a__CNN": "passed", "test_a__ViT": "passed"}, "passes", "passes"),
        ({"test_a__CNN": "passed"}, "passes", "not run"),
        ({"test_a__CNN": "passed", "test_a__ViT": "failed"}, "passes", "**fails**"),
        ({"test_a__CNN": "passed", "test_a__ViT": "skipped"}, "passes", "not run"),
        ({"test_a__CNN": "passed", "test_a__ViT": "passed", "test_b__x": "failed"}, "**fails**", "**fails**"),
        ({"test_a__CNN": "passed", "test_b__CNN": "failed"}, "**fails**", "not run"),
        ({"test_a__CNN": "passed", "test_b__x": "passed"}, "passes (2 tests)", "not run"),
    ],
)
def test_cells_follow_the_outcomes(tests, cnn, vit):
    assert cells(of(**tests))[1:4] == ["5.0", cnn, vit]
