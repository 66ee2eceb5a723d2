"""What of a model folder is published, what is refused, and what the card says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from hub_models import HOME, RECIPE, model_folder, pose_results, tensors
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from ti_backbones import cli, latent
from ti_backbones.backbone import HALVED, TIBackbone
from ti_backbones.model_folder import read_model_folder, without_paths
from ti_backbones.pose.model import PoseModel, PoseSpec, build_head

NAME = "org/ti_test_resnet"
LICENSE = ("--license", "cc-by-nc-4.0")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ti_test_resnet"
    model_folder(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "models" / "ti_test_resnet"))


# --- Folders that are not published ----------------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> str:
    """Make a folder unfit; gives what must be named."""
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    if how == "pickle":
        torch.save({}, folder / "pytorch_model.bin")
        return "pytorch_model.bin' may run code"
    if how == "stray":
        (folder / "notes.txt").write_text("x")
        return "notes.txt' does not belong"
    if how == "stray folder":
        (folder / "old").mkdir()
        shutil.copy(weights, folder / "old")
        return "old' does not belong"
    if how == "pickle in disguise":
        torch.save(tensors(weights), weights)
        return "model.safetensors' is not what its name says"
    if how == "picture in disguise":
        torch.save({}, folder / "certificate.png")
        return "certificate.png' is not what its name says"
    if how == "no transformer":
        (folder / "latent_transformer.safetensors").unlink()
        return "has no latent_transformer.safetensors"
    if how == "missing key":
        save_file({k: v for k, v in tensors(weights).items() if k != "conv1.0.weight"}, weights)
        return "'conv1.0.weight' is missing"
    if how == "our name":
        config["architecture"] = "ti_test_resnet"
    elif how == "classes":
        config["model_args"] = {"num_classes": 5}
    elif how == "local path":
        (folder / "recipe.toml").write_text(RECIPE.replace("runs/a", f"{HOME}/a"))
        return "names the local path"
    elif how == "recipe":
        (folder / "recipe.toml").write_text("licence = 'mit'")
        return "recipe.toml' cannot be used"
    (folder / "config.json").write_text(json.dumps(config))
    return "does not load without this package"


@pytest.mark.parametrize("how", [
    "pickle", "stray", "stray folder", "pickle in disguise", "picture in disguise", "no transformer", "missing key",
    "our name", "classes", "local path", "recipe",
])  # fmt: skip
def test_an_unfit_folder_is_refused(how, folder, capsys):
    words = spoil(folder, how)
    assert cli.main(["publish", str(folder), "--repo-id", NAME, *LICENSE]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said
    assert str(folder) in said


def test_the_licence_must_be_stated(folder, capsys):
    assert cli.main(["publish", str(folder), "--repo-id", NAME]) == 2
    assert "licence of the weights" in capsys.readouterr().err


# --- The card --------------------------------------------------------------------------------------------------------


def test_the_card_says_what_was_measured(folder):
    results = pose_results()
    evaluation = folder / "evaluation-dexycb"
    evaluation.mkdir()
    (evaluation / "results.json").write_text(results.to_json())
    (evaluation / "hands.png").write_bytes(b"pictures of the set")
    (folder / "recipe.toml").write_text(RECIPE)
    public = read_model_folder(folder, f"hf-hub:{NAME}", "cc-by-nc-4.0")
    assert "evaluation-dexycb/hands.png" in public.left_out
    assert "samples" not in json.loads(public.files["evaluation-dexycb/results.json"])
    text = public.files["README.md"].decode()
    card = ModelCard(text)  # the client's own reader
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.get("library_name") == "timm"
    assert {"timm", "hand-pose"} <= set(card.data.tags)
    told = {(r.metric_type, r.dataset_name): r.metric_value for r in card.data.eval_results}
    assert told["mpjpe", "dexycb?split=s0/test"] == results.mpjpe["root"]
    assert told["pa-mpjpe", "dexycb?split=s0/test"] == results.mpjpe["proper"]
    certificate = json.loads((folder / "certificate.json").read_text())
    assert told["gain", "12 images of folder kept out of training"] == certificate["gain"]
    parts = [f"| PA-MPJPE | {results.mpjpe['proper']:.2f} |", f"| gain | {certificate['gain']:.3g} | 1 − E‖"]
    parts += ["--out runs/a", "5 min on two cores", "(certificate.png)", "## Intended use", "## Limits"]
    parts += ["Code of ti-backbones: Apache-2.0. Weights in this folder: cc-by-nc-4.0."]
    parts += [f"'hf-hub:{NAME}'", "AutoModel", f"tu-hf-hub:{NAME}", "TIMMBackbone", "TIBackbone.from_pretrained"]
    for part in parts:
        assert part in text
    assert public.metrics.keys() >= {"gain", "MPJPE [mm], dexycb?split=s0/test"}


def test_a_pose_model_is_published_with_its_head(folder, tmp_path):
    ti = TIBackbone.from_pretrained(folder)
    assert isinstance(ti.latent_transformer, latent.O2Representation)
    head = build_head(ti.encoder, ti.latent_transformer, "mlp", "joints")
    spec = PoseSpec(96, "full", record={"training": {"data": f"dexycb:{HOME}?split=s0/train"}})
    PoseModel(ti.encoder, ti.latent_transformer, head, spec).save(tmp_path / "pose")
    (tmp_path / "pose/training").mkdir()
    (tmp_path / "pose/validation.json").write_text("[]")
    public = read_model_folder(tmp_path / "pose", f"hf-hub:{NAME}", "cc-by-nc-4.0")
    assert {"pose_head.safetensors", "pose.json"} <= public.files.keys()
    assert public.left_out == ["training", "validation.json"]
    assert json.loads(public.files["pose.json"])["record"]["training"]["data"] == "dexycb?split=s0/train"
    assert ModelCard(public.files["README.md"].decode()).data.pipeline_tag == "keypoint-detection"


def test_making_a_folder_public_twice_changes_nothing(folder, tmp_path):
    first = read_model_folder(folder, f"hf-hub:{NAME}", "mit").files
    again = tmp_path / "again" / "ti_test_resnet"
    again.mkdir(parents=True)
    for path, content in first.items():
        (again / path).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    second = read_model_folder(again, f"hf-hub:{NAME}", "mit").files
    assert {k: v for k, v in second.items() if isinstance(v, bytes)} == {
        k: v for k, v in first.items() if isinstance(v, bytes)
    }


@pytest.mark.parametrize(("private", "public"), [
    ("folder:/home/me/x", "folder"),
    ("folder:C:\\Users\\me\\x", "folder"),
    ("dexycb:/data/My Sets/DexYCB?split=s0/train&size=128", "dexycb?split=s0/train&size=128"),
    ("40 images of shards:~/x y/{0..9}.tar kept out of training", "40 images of shards kept out of training"),
    ("embedded?split=test", "embedded?split=test"),
    ("/home/me/model.safetensors", "model.safetensors"),
    ("../runs/a/", "a"),
    ("runs/a/model.safetensors", "model.safetensors"),
    ("started from /home/me/a.pth twice", "started from a.pth twice"),
    ("hf-hub:org/name", "hf-hub:org/name"),
    ("1.2 mm/px on average", "1.2 mm/px on average"),
    ("resnet18", "resnet18"),
])  # fmt: skip
def test_local_paths_are_taken_out(private, public):
    assert without_paths({"a": [private, 3]}) == {"a": [public, 3]}
    assert without_paths(public) == public


def test_half_precision_is_loaded_as_single(tmp_path):
    ti = model_folder(tmp_path / "whole", figure=False)
    ti.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = type(ti).from_pretrained(tmp_path / "half")
    plain = timm.create_model(f"local-dir:{tmp_path / 'half'}", pretrained=True)
    for key, value in ti.encoder.state_dict().items():
        expected = value.half().float() if value.numel() >= HALVED else value
        assert torch.equal(loaded.encoder.state_dict()[key], expected)
        assert torch.equal(plain.state_dict()[key], expected)
        assert loaded.encoder.state_dict()[key].dtype == value.dtype
