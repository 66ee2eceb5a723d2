"""`ti_<arch>` is timm's `<arch>`: the same network, and everything that timm can do with it."""

import dataclasses
import io
import json
import pickle
import subprocess
import sys

import onnxruntime
import pytest
import timm
import torch
from timm.models import save_for_hf
from torch.testing import assert_close
from torchvision.models.feature_extraction import NodePathTracer

import ti_backbones
from ti_backbones.errors import InputError
from ti_backbones.published import local_models

BASES = timm.list_models(exclude_filters="ti_*")
ABOUT_WEIGHTS = {"url", "file", "hf_hub_id", "hf_hub_filename", "tag", "num_classes", "label_offset", "custom_load"}
ABOUT_WEIGHTS |= {"license", "description", "origin_url", "paper_name", "paper_ids", "notes", "architecture"}

# One convolutional network and one transformer, of timm's small ones.
SMALL = pytest.mark.parametrize("base", ["test_resnet", "test_vit"])


def twins(base: str, **kwargs):
    """timm's model, and the `ti_*` one with the same weights, both in eval mode."""
    expected = timm.create_model(base, **({"num_classes": 0} | kwargs)).eval()
    twin = timm.create_model(f"ti_{base}", **kwargs).eval()
    twin.load_state_dict(expected.state_dict(), strict=True)
    return expected, twin


def images(model, channels: int = 3):
    return torch.rand(2, channels, *model.pretrained_cfg["input_size"][1:], generator=torch.Generator().manual_seed(0))


# --- Names -----------------------------------------------------------------------------------------------------------


def test_every_architecture_has_one_alias():
    assert timm.list_models("ti_*") == sorted((f"ti_{b}" for b in BASES), key=timm.list_models("ti_*").index)
    assert len(BASES) > 1300


def test_cfg_is_the_architectures_without_its_weights():
    for base in BASES:
        expected, cfg = (dataclasses.asdict(timm.get_pretrained_cfg(n)) for n in (base, f"ti_{base}"))
        assert {k for k in cfg if cfg[k] != expected[k]} <= ABOUT_WEIGHTS, base
        assert cfg["num_classes"] == 0, base
        has_weights = any(cfg[source] for source in ("url", "file", "hf_hub_id"))
        assert has_weights == timm.is_model_pretrained(f"ti_{base}"), base


def test_nothing_is_listed_as_pretrained_but_what_is_published_or_lies_here():
    known = {*ti_backbones.registry.PUBLISHED, *local_models()}
    assert set(timm.list_models("ti_*", pretrained=True)) == known


FRESH = """
import json, sys, warnings
warnings.simplefilter("error")
import timm
from timm.models import register_model

def theirs(pretrained=False, **kwargs): return "theirs"
for name in ("collision", "ti_collision"):
    theirs.__name__ = name
    register_model(theirs)

def listings():
    names = {m: timm.list_models(module=m) for m in timm.list_modules() if m != "ti_backbones"}
    names["all"] = timm.list_models(exclude_filters="ti_*")
    return {**names, "pretrained": timm.list_pretrained(exclude_filters="ti_*")}

before, modules = listings(), set(sys.modules)
import ti_backbones
after, added = listings(), set(sys.modules) - modules

def late(pretrained=False, **kwargs): return timm.create_model("test_resnet", pretrained, **kwargs)
register_model(late)
new = ti_backbones.register_aliases()
print(json.dumps({
    "same": before == after, "added": sorted(added), "collision": timm.model_entrypoint("ti_collision") is theirs,
    "late": new, "again": ti_backbones.register_aliases(), "late_classes": timm.create_model("ti_late").num_classes,
}))
"""


@pytest.fixture(scope="module")
def fresh():
    """What a fresh process sees that imports timm, and then this package."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_leaves_timms_own_listings_alone(fresh):
    assert fresh["same"]


def test_import_brings_no_module_beside_its_own(fresh):
    foreign = [m for m in fresh["added"] if m.partition(".")[0] != "ti_backbones"]
    assert foreign == []
    assert "ti_backbones.backbone" not in fresh["added"]


def test_a_name_that_timm_owns_stays_timms(fresh):
    assert fresh["collision"]


def test_architectures_registered_later_get_their_alias_once(fresh):
    assert fresh["late"] == ["ti_late"]
    assert fresh["again"] == []
    assert fresh["late_classes"] == 0


def test_entrypoints_are_attributes_of_the_package():
    assert pickle.loads(pickle.dumps(timm.model_entrypoint("ti_resnet18"))) is ti_backbones.ti_resnet18
    assert not hasattr(ti_backbones, "ti_no_such_model")


@pytest.mark.parametrize("name", ["ti_no_such_model", "ti_ti_resnet18", "ti_gluon_resnet18_v1b"])
def test_unknown_names_get_timms_error(name):
    with pytest.raises(RuntimeError, match=rf"Unknown model \({name}\)"):
        timm.create_model(name)


def test_unknown_names_get_a_suggestion_where_we_are_asked():
    with pytest.raises(InputError, match=r"'ti_resnet81'.*did you mean .*ti_resnet18"):
        ti_backbones.TIBackbone("ti_resnet81")


# --- The same network ------------------------------------------------------------------------------------------------


@SMALL
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 7}, {"in_chans": 1}, {"num_classes": 5, "global_pool": "avg"}])
def test_outputs_equal_timms(base, kwargs):
    expected, twin = twins(base, **kwargs)
    x = images(twin, kwargs.get("in_chans", 3))
    assert type(twin) is type(expected)
    assert_close(twin(x), expected(x), rtol=0, atol=0)
    width = twin.num_classes or twin.head_hidden_size
    assert twin(x).shape == (2, width)


@SMALL
def test_reset_classifier_equals_timms(base):
    expected, twin = twins(base)
    for model in (expected, twin):
        torch.manual_seed(0)
        model.reset_classifier(5)
    assert_close(twin(images(twin)), expected(images(twin)), rtol=0, atol=0)


def test_img_size_equals_timms():
    expected, twin = twins("test_vit", img_size=96)
    x = torch.rand(2, 3, 96, 96)
    assert_close(twin(x), expected(x), rtol=0, atol=0)
    assert twin.patch_embed.img_size == (96, 96)


def test_unknown_arguments_are_refused_as_timm_refuses_them():
    with pytest.raises(TypeError, match="no_such_argument"):
        timm.create_model("ti_test_resnet", no_such_argument=1)


@SMALL
@pytest.mark.parametrize("out_indices", [(0, 1), (-1,)])
def test_features_only_equals_timms(base, out_indices):
    kwargs = {"features_only": True, "out_indices": out_indices}
    expected, twin = timm.create_model(base, **kwargs).eval(), timm.create_model(f"ti_{base}", **kwargs).eval()
    twin.load_state_dict(expected.state_dict(), strict=True)
    x = images(twin)
    assert twin.feature_info.channels() == expected.feature_info.channels()
    assert_close(twin(x), expected(x), rtol=0, atol=0)


@SMALL
def test_torchscript_equals_eager(base):
    expected, twin = twins(base, scriptable=True)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(twin), file)
    file.seek(0)
    x = images(twin)
    assert_close(torch.jit.load(file)(x), expected(x))


@SMALL
def test_fx_equals_eager(base):
    expected, twin = twins(base)
    tracer = NodePathTracer(
        leaf_modules=list(timm.models.get_notrace_modules()),
        autowrap_functions=list(timm.models.get_notrace_functions()),
    )
    graph = torch.fx.GraphModule(twin, tracer.trace(twin))
    assert_close(graph(images(twin)), expected(images(twin)))


@pytest.mark.slow
@SMALL
def test_compile_equals_eager(base):
    expected, twin = twins(base)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    assert_close(compiled(images(twin)), expected(images(twin)))


@pytest.mark.slow
@SMALL
def test_export_equals_eager(base):
    expected, twin = twins(base, exportable=True)
    x = images(twin)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(twin, (x,), dynamic_shapes=((batch, None, None, None),))
    assert_close(program.module()(x[:1].repeat(3, 1, 1, 1)), expected(x[:1].repeat(3, 1, 1, 1)))


@pytest.mark.slow
@SMALL
def test_onnx_equals_eager(base, tmp_path):
    expected, twin = twins(base, exportable=True)
    x, path = images(twin), tmp_path / "model.onnx"
    torch.onnx.export(twin, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(output), expected(x), rtol=1e-3, atol=1e-4)


# --- With a latent transformer ---------------------------------------------------------------------------------------


@SMALL
@pytest.mark.parametrize(("kind", "expected_kind"), [(True, "o2"), ("o2", "o2"), ("affine", "affine")])
def test_latent_transformer_wraps_the_same_encoder(base, kind, expected_kind):
    expected, twin = twins(base)
    wrapped = timm.create_model(f"ti_{base}", latent_transformer=kind).eval()
    assert isinstance(wrapped, ti_backbones.TIBackbone)
    assert wrapped.latent_transformer.config()["kind"] == expected_kind
    wrapped.encoder.load_state_dict(twin.state_dict(), strict=True)
    x = images(twin)
    assert_close(wrapped(x), expected(x))
    assert "latent_transformer" not in wrapped.encoder._model_args


def test_latent_transformer_needs_a_pooled_latent():
    with pytest.raises(ValueError, match="ti_test_resnet: features_only"):
        timm.create_model("ti_test_resnet", features_only=True, latent_transformer=True)
    with pytest.raises(InputError, match=r"'qwen3_vit_88m_enc' has no pooled latent.*'qwen3_vit_88m'"):
        timm.create_model("ti_qwen3_vit_88m_enc", device="meta", latent_transformer=True)


# --- Architectures whose entrypoints ask for the tag of timm's weights ------------------------------------------------

PROJECTED = timm.list_models(["qwen3_vit_*", "deepseek_vit_*"])


@pytest.mark.parametrize("base", PROJECTED)
def test_projected_architectures_have_timms_shapes(base):
    expected, twin = (timm.create_model(n, num_classes=0, device="meta") for n in (base, f"ti_{base}"))
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    assert "tag" not in twin.pretrained_cfg


@pytest.mark.parametrize("base", ["qwen3_vit_88m_merge", "deepseek_vit_412m_align"])
def test_projected_architectures_come_back_through_plain_timm(base, tmp_path):
    small = {"embed_dim": 64, "depth": 1, "num_heads": 2}
    saved = timm.create_model(f"ti_{base}", **small).eval()
    save_for_hf(saved, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.rand(1, 3, 252 if base.startswith("deepseek") else 64, 252 if base.startswith("deepseek") else 64)
    assert_close(loaded(x), saved(x), rtol=0, atol=0)
