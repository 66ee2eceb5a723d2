"""The table of architectures is what timm's models do, and one member of every family really runs."""

import gc
import re
import shutil

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from ti_backbones import sweep
from ti_backbones.backbone import TIBackbone, encode
from ti_backbones.decoder import MapDecoder, PooledDecoder
from ti_backbones.errors import InputError

VERSION, TABLE = sweep.read_table()
ROWS = {row.name: row for row in TABLE}
same_timm = pytest.mark.skipif(timm.__version__ != VERSION, reason=f"the table is timm {VERSION}'s")

# Families whose smallest member cannot take 32 px, the smallest image that the decoder draws, and what it takes.
SIZES = {
    "byoanet": 256,  # attention over blocks of a fixed size
    "crossvit": 240,  # scales smaller images up to this
    "csatv2": 64,
    "deepseek_vit": 56,  # patches of 14
    "efficientformer": 224,  # attention biases of a fixed size
    "inception_resnet_v2": 84,  # convolutions without padding
    "inception_v3": 84,
    "inception_v4": 84,
}
# Parameters of a family's smallest member that a pooled latent does not depend on.
UNUSED = {"efficientvim": {"weights"}}  # weighs the classifiers of several stages


def smallest_members() -> dict[str, str]:
    """Family -> its architecture with the fewest parameters, of those that wrap."""
    members: dict[str, sweep.Architecture] = {}
    for row in TABLE:
        if row.status == "wraps" and row.parameters < getattr(members.get(row.family), "parameters", float("inf")):
            members[row.family] = row
    return {family: row.name for family, row in sorted(members.items())}


MEMBERS = smallest_members()
families = pytest.mark.parametrize("family", MEMBERS)


def build(name: str, size: int, device: str = "cpu") -> nn.Module:
    """A family's member for images of one size; most take any, those of a fixed size are told."""
    fixed = timm.get_pretrained_cfg_value(name, "fixed_input_size")
    takes_size = fixed and timm.get_pretrained_cfg_value(name, "input_size")[1] != size
    return timm.create_model(name, device=device, **({"img_size": size} if takes_size else {}))


# --- The table -------------------------------------------------------------------------------------------------------


def check_bars(rows):
    statuses = [row.status for row in rows]
    assert len(rows) == len(timm.list_models("ti_*"))
    assert len(rows) - statuses.count("fails") >= 0.99 * len(rows)
    assert statuses.count("wraps") >= 0.90 * len(rows)
    for row in rows:
        assert (row.reason == "") == (row.status == "wraps"), row
        assert "\n" not in row.reason, row
        assert bool(row.latent and len(row.feature_map) == 3) == (row.status == "wraps"), row


@same_timm
def test_committed_table_has_every_architecture_and_meets_the_bars():
    check_bars(TABLE)
    assert [row.name for row in TABLE] == timm.list_models("ti_*")
    assert {row.family for row in TABLE} == set(timm.list_modules()) - {"ti_backbones"}


@same_timm
def test_only_bare_encoders_do_not_wrap():
    without = {row.name for row in TABLE if row.status != "wraps"}
    assert without == set(timm.list_models(["ti_*_vit_*_enc", "ti_mobilenetv5_300m_enc"]))
    assert all(ROWS[name].status == "builds" for name in without)


def test_table_survives_writing_and_reading(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(sweep.format_table(TABLE))
    assert sweep.read_table(path) == (timm.__version__, TABLE)


@same_timm
def test_a_part_of_the_sweep_gives_its_part_of_the_table(tmp_path):
    rows = sweep.run(tmp_path / "part.csv", pattern="test_*", progress=False)
    assert rows == [row for row in TABLE if row.name.startswith("ti_test_")]
    assert sweep.read_table(tmp_path / "part.csv")[1] == rows


@pytest.mark.parametrize("name", ["ti_test_resnet", "ti_test_vit", "ti_test_mambaout"])
def test_rows_are_what_a_real_model_gives(name):
    row, model = sweep.probe(name), timm.create_model(name.removeprefix("ti_"), num_classes=0).eval()
    x = torch.zeros(1, *row.input_size)
    assert model(x).shape == (1, row.latent)
    assert model.forward_intermediates(x, intermediates_only=True)[-1].shape == (1, *row.feature_map)
    assert sum(p.numel() for p in model.parameters()) == row.parameters


def test_an_architecture_that_fails_is_a_row_with_its_reason(monkeypatch):
    def broken(**kwargs):
        raise ValueError("two\nlines")

    for name in ("broken", "ti_broken"):
        monkeypatch.setitem(timm.models._registry._model_entrypoints, name, broken)
    row = sweep.probe("ti_broken")
    assert (row.status, row.reason) == ("fails", "ValueError: two lines")
    assert "ti_broken fails: ValueError: two lines" in sweep.summarize([row])


@pytest.mark.parametrize(("options", "names"), [
    ({"pattern": "no_such_*"}, "no_such_*"),
    ({"workers": 0}, "workers is 0"),
    ({"out": "no/such/folder/table.csv"}, "no/such/folder"),
])  # fmt: skip
def test_bad_options_are_refused_in_one_line(options, names):
    with pytest.raises(InputError, match=re.escape(names)) as error:
        sweep.run(**options)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_whole_sweep_gives_the_committed_table():
    rows = sweep.run(workers=2, progress=False)
    print(sweep.summarize(rows))
    check_bars(rows)
    if timm.__version__ == VERSION:
        assert [a for a, b in zip(rows, TABLE, strict=True) if a != b] == []


# --- One member of every family --------------------------------------------------------------------------------------


@same_timm
def test_every_family_has_a_member():
    assert set(MEMBERS) == set(timm.list_modules()) - {"ti_backbones"}
    assert set(SIZES) | set(UNUSED) <= set(MEMBERS)


@pytest.mark.slow
@families
def test_family_runs_forward_decoder_and_backward(family):
    size = SIZES.get(family, 32)
    encoder = build(MEMBERS[family], size).train()
    x = torch.rand(2, 3, size, size)
    z, feature_map = encode(encoder, x)
    pooled, mapped = PooledDecoder(z.shape[1], 16), MapDecoder(feature_map.shape[1], 16)
    drawings = (pooled(z), mapped(feature_map))
    loss = sum((d - nn.functional.interpolate(x, d.shape[-2:])).square().mean() for d in drawings)
    loss.backward()

    assert z.shape == (2, ROWS[MEMBERS[family]].latent)
    assert feature_map.shape[:2] == (2, ROWS[MEMBERS[family]].feature_map[0])
    assert loss.isfinite()
    without = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert without == UNUSED.get(family, set())
    grads = [p.grad for m in (encoder, pooled, mapped) for p in m.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in grads)
    assert sum(float(g.abs().sum()) for g in grads) > 0
    del encoder, grads
    gc.collect()


@pytest.mark.slow
@families
def test_family_latent_is_what_the_model_returns(family):
    size = SIZES.get(family, 32)
    encoder = build(MEMBERS[family], size).eval()
    x = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        assert_close(encode(encoder, x)[0], encoder(x))


@pytest.mark.slow
@pytest.mark.parametrize("family", SIZES)
def test_listed_families_cannot_take_the_smallest_size(family):
    with pytest.raises((RuntimeError, AssertionError, TypeError)):
        encode(build(MEMBERS[family], 32, "meta"), torch.zeros(2, 3, 32, 32, device="meta"))


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in MEMBERS if ROWS[MEMBERS[f]].parameters < 30e6])
def test_family_comes_back_from_its_folder(family, tmp_path, monkeypatch):
    name, size = MEMBERS[family], SIZES.get(family, 32)
    monkeypatch.setenv("TI_BACKBONES_HUB", str(tmp_path))
    saved = build(name, size)
    TIBackbone(saved).save_pretrained(tmp_path / name)
    loaded = timm.create_model(name, pretrained=True).state_dict()
    shutil.rmtree(tmp_path / name)
    assert loaded.keys() == saved.state_dict().keys()
    assert all(torch.equal(loaded[k], v) for k, v in saved.state_dict().items())
