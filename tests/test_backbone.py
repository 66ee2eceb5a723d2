"""A TI backbone is a timm model and more; what is saved is what is loaded, here and in timm."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ti_backbones.backbone import TIBackbone, create_encoder, load_strictly, read_weights
from ti_backbones.errors import InputError
from ti_backbones.published import WeightsError

MODELS = ["test_resnet", "test_convnext", "test_vit", "test_efficientnet", "mobilenetv3_small_050"]
FILES = {"model.safetensors", "config.json", "latent_transformer.safetensors"}


def made(model: str = "test_resnet", kind: str = "o2", **kwargs) -> TIBackbone:
    """A backbone of random weights and statistics."""
    torch.manual_seed(0)
    ti = TIBackbone(model, kind, **kwargs).eval()
    for name, buffer in ti.named_buffers():
        if name.endswith("mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return ti


def picture(ti: TIBackbone) -> torch.Tensor:
    side = ti.encoder.pretrained_cfg["input_size"][-1]
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_same(a: TIBackbone, b: TIBackbone) -> None:
    """Equal to the bit: the weights, the latents, and how they move."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    x, angle = picture(a), torch.tensor([0.1, 2.0, -3.0])
    with torch.no_grad():
        z = a(x)
        assert z.std() > 1e-3
        assert torch.equal(z, b(x))
        moved = [ti.transform(z, torch.tensor([True, False, True]), angle) for ti in (a, b)]
        assert torch.equal(*moved)


# --- Saving and loading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["o2", "affine"])
@pytest.mark.parametrize("model", MODELS)
def test_what_is_saved_is_loaded_to_the_bit(model, kind, tmp_path: Path):
    ti = made(model, kind, latent_config={"rank": 20})
    ti.metadata = {"training": {"size": 32}, "certificate": {"gain": 0.5}}
    ti.save_pretrained(tmp_path / "m")
    loaded = TIBackbone.from_pretrained(tmp_path / "m")
    assert not loaded.training
    assert loaded.metadata == ti.metadata
    assert loaded.latent_transformer.config() == ti.latent_transformer.config()
    assert_same(ti, loaded)
    loaded.save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "m" / name).read_bytes(), name


def test_options_of_timm_are_kept(tmp_path: Path):
    ti = made("test_vit", img_size=96, in_chans=1)
    ti.save_pretrained(tmp_path)
    loaded = TIBackbone.from_pretrained(tmp_path)
    assert loaded(torch.randn(1, 1, 96, 96)).shape == (1, loaded.latent_dim)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert plain(torch.randn(1, 1, 96, 96)).shape == (1, loaded.latent_dim)


@pytest.mark.parametrize("name", ["test_resnet", "ti_test_resnet"])
def test_the_folder_is_as_designed(name, tmp_path: Path):
    ti = made(name, num_classes=0)
    ti.metadata = {"training": {"size": 32}}
    ti.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == FILES | {"README.md"}
    assert "was not certified" in (tmp_path / "README.md").read_text()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "test_resnet"
    assert "num_classes" not in config.get("model_args", {})
    assert config["ti_backbones"] == {
        "latent_transformer": ti.latent_transformer.config(),
        "training": {"size": 32},
    }
    allowed = {"architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg"}
    assert config.keys() <= allowed | {"ti_backbones"}
    assert config["pretrained_cfg"].keys() <= set(timm.models.PretrainedCfg.__dataclass_fields__)
    with safe_open(tmp_path / "model.safetensors", "pt") as f:
        assert set(f.keys()) == set(timm.create_model("test_resnet", num_classes=0).state_dict())
    with safe_open(tmp_path / "latent_transformer.safetensors", "pt") as f:
        tensors = [f.get_tensor(k) for k in f.keys()]  # noqa: SIM118 (not a dict)
        assert all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())


def test_nothing_saved_is_a_pickle(tmp_path: Path):
    made().save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert data[:2] not in (b"PK", b"\x80\x02", b"\x80\x04"), path


@pytest.mark.parametrize("model", MODELS)
def test_timm_loads_the_encoder_strictly(model, tmp_path: Path):
    ti = made(model)
    ti.save_pretrained(tmp_path)
    x = picture(ti)
    with torch.no_grad():
        z = ti(x)
        local = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert torch.equal(local(x), z)
        base = timm.create_model(model, num_classes=0).eval()
        base.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
        assert torch.equal(base(x), z)
        classes = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
        assert torch.equal(classes.forward_head(classes.forward_features(x), pre_logits=True), z)


def test_a_plain_timm_checkpoint_loads_strictly(tmp_path: Path):
    plain = timm.create_model("test_resnet", num_classes=0)
    save_file(plain.state_dict(), tmp_path / "a.safetensors")
    torch.save(plain.state_dict(), tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        ti = made("ti_test_resnet")
        load_strictly(ti.encoder, read_weights(tmp_path / name), name)
        assert all(torch.equal(v, plain.state_dict()[k]) for k, v in ti.encoder.state_dict().items())


def test_an_encoder_with_a_classifier_is_saved_with_it_and_loaded_without(tmp_path: Path):
    ti = TIBackbone(timm.create_model("test_resnet", num_classes=5)).eval()
    ti.save_pretrained(tmp_path)
    loaded = TIBackbone.from_pretrained(tmp_path)
    x = picture(ti)
    assert torch.equal(loaded(x), ti(x))
    assert loaded.encoder.num_classes == 0
    with_classes = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(with_classes(x), ti.encoder(x))


# --- Folders that do not fit -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def refused(folder: Path | str, *words) -> None:
    """from_pretrained refuses it in one line with these words."""
    with pytest.raises(InputError) as caught:
        TIBackbone.from_pretrained(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert ": " in line
    for word in words:
        assert str(word) in line, (word, line)


def test_missing_folders_and_files(saved: Path):
    refused("nowhere/at/all", "nowhere/at/all", "give a folder")
    refused("ti_test_vit", "ti_test_vit", "TI_BACKBONES_HUB")
    (saved / "latent_transformer.safetensors").rename(saved / "x")
    refused(saved, saved, "no latent transformer", "timm.create_model")
    (saved / "x").rename(saved / "latent_transformer.safetensors")
    (saved / "model.safetensors").rename(saved / "x")
    refused(saved, saved / "model.safetensors")
    (saved / "config.json").unlink()
    refused(saved, "no config.json", saved)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
def test_damaged_files(name, damage, saved: Path):
    path = saved / name
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "garbage": b"\xff" * 500}[damage])
    refused(saved, path)


def test_weights_of_another_architecture(saved: Path):
    save_file(timm.create_model("test_convnext", num_classes=0).state_dict(), saved / "model.safetensors")
    refused(saved, saved, "test_resnet")


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_the_architecture(change, saved: Path):
    """timm itself would leave some of these at random values without a word."""
    for name in ("model.safetensors", "latent_transformer.safetensors"):
        path = saved / name
        whole = path.read_bytes()
        state = load_file(path)
        key = next(k for k, v in state.items() if v.ndim >= 1)
        if change == "unexpected":
            state["more"] = torch.zeros(1)
        elif change == "missing":
            del state[key]
        else:
            state[key] = torch.zeros(*state[key].shape, 2)
        save_file(state, path)
        refused(saved, path, "more" if change == "unexpected" else key)
        path.write_bytes(whole)
    TIBackbone.from_pretrained(saved)


@pytest.mark.parametrize(
    "transformer",
    [None, {}, {"kind": "o3", "rank": 4}, {"kind": "o2", "rank": 10**6}, {"kind": "o2", "size": 3}, [1]],
)
def test_a_configuration_that_describes_no_transformer(transformer, saved: Path):
    path = saved / "config.json"
    config = json.loads(path.read_text())
    config["ti_backbones"] = {"latent_transformer": transformer}
    path.write_text(json.dumps(config))
    refused(saved, path)


def test_the_errors_are_the_packages_own(saved: Path):
    assert issubclass(WeightsError, InputError)
    with pytest.raises(InputError, match=r"unknown model 'resnet81': did you mean .*resnet18"):
        TIBackbone("resnet81")
    with pytest.raises(InputError, match=r"cannot be made.*no_such_option"):
        create_encoder("test_resnet", no_such_option=1)


def test_nothing_is_changed_if_not_all_can_be_saved(saved: Path):
    """A folder stands where one of the files has to go."""
    (saved / "config.json").unlink()
    (saved / "config.json").mkdir()
    (saved / "config.json" / "x").touch()
    before = {n: (saved / n).read_bytes() for n in ("model.safetensors", "latent_transformer.safetensors")}
    torch.manual_seed(5)
    with pytest.raises(InputError, match=r"cannot write '.*config.json'"):
        TIBackbone("test_resnet").save_pretrained(saved)
    assert {n: (saved / n).read_bytes() for n in before} == before


# --- A timm model, and more ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_it_offers_timms_methods(model):
    ti = made(model)
    encoder, x = ti.encoder, picture(ti)
    with torch.no_grad():
        assert torch.equal(ti.forward_features(x), encoder.forward_features(x))
        assert torch.equal(ti.forward_head(ti.forward_features(x)), ti(x))
        features, maps = ti.forward_intermediates(x, indices=1)
        assert torch.equal(features, encoder.forward_features(x))
        assert len(maps) == 1
    assert ti.feature_info is encoder.feature_info
    assert ti.num_features == encoder.num_features
    assert ti.head_hidden_size == encoder.head_hidden_size == ti.latent_dim
    assert ti.pretrained_cfg is encoder.pretrained_cfg
    assert ti.get_classifier() is encoder.get_classifier()
    assert isinstance(ti.no_weight_decay() if hasattr(encoder, "no_weight_decay") else set(), set)
    ti.reset_classifier(4)
    assert encoder.num_classes == ti.num_classes == 4
    assert encoder(x).shape == (3, 4)
    assert ti(x).shape == (3, ti.latent_dim)  # its own call still gives the latent
    ti.reset_classifier(0)


@pytest.mark.parametrize("model", ["test_convnext", "test_vit"])
def test_gradient_checkpointing_changes_no_gradient(model):
    ti = made(model).train()
    gradients = []
    for enable in (False, True):
        ti.set_grad_checkpointing(enable)
        ti.zero_grad()
        ti(picture(ti)).square().sum().backward()
        gradients.append({k: p.grad.clone() for k, p in ti.encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key])


def test_an_attribute_that_nobody_has():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = made().no_such_thing


def test_copies_are_equal_and_independent():
    ti = made()
    ti.transform(ti(picture(ti)), True, 0.3)  # so that the projection is cached
    copies = [copy.deepcopy(ti), pickle.loads(pickle.dumps(ti))]
    for other in copies:
        assert_same(ti, other)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(1)
        assert not torch.equal(other(picture(ti)), ti(picture(ti)))
    assert_same(ti, made())


def test_the_state_is_the_encoders_and_the_transformers():
    ti = made()
    assert set(ti.state_dict()) == {
        *(f"encoder.{k}" for k in timm.create_model("test_resnet", num_classes=0).state_dict()),
        *(f"latent_transformer.{k}" for k in ("weight", "mean", "observed")),
    }
    other = TIBackbone("test_resnet").eval()
    other.transform(torch.zeros(1, ti.latent_dim))
    other.load_state_dict(ti.state_dict(), strict=True)
    assert_same(ti, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_moves_to_another_type(dtype):
    ti = made().to(dtype)
    z = ti(picture(ti).to(dtype))
    moved = ti.transform(z, True, 0.7)
    assert z.dtype == moved.dtype == dtype
    back = ti.transform(moved, True, 0.7)  # a reflection is its own inverse
    assert (back - z).norm() < (1e-10 if dtype == torch.float64 else 0.05) * z.norm()


def test_options_of_a_name_do_not_go_with_a_module():
    model = timm.create_model("test_resnet", num_classes=0)
    with pytest.raises(TypeError, match="apply to a model's name"):
        TIBackbone(model, pretrained=True)
