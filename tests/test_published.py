"""`pretrained=True`: weights are found in a known order, fit exactly, or one line says why not."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import resolve_model_input_args, save_for_hf

import ti_backbones
from ti_backbones.errors import InputError
from ti_backbones.published import local_models
from ti_backbones.registry import WeightsError

NAME = "ti_test_resnet"


def make(folder: Path, base: str = "test_resnet", **kwargs):
    """A model folder with random weights, and the model that is in it."""
    model = timm.create_model(f"ti_{base}", **kwargs)
    save_for_hf(model, folder, safe_serialization=True)
    return model


def equal(state, expected) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in state)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TI_BACKBONES_HUB", str(tmp_path))
    return tmp_path


# --- Found -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["test_resnet", "test_vit", "test_convnext"])
def test_weights_come_from_the_folder(hub, base):
    stored = make(hub / f"ti_{base}", base)
    assert equal(timm.create_model(f"ti_{base}", pretrained=True).state_dict(), stored.state_dict())


def test_backbone_weights_stay_when_classes_are_added(hub):
    stored = make(hub / NAME).state_dict()
    loaded = timm.create_model(NAME, pretrained=True, num_classes=5).state_dict()
    assert loaded.keys() - stored.keys() == {"fc.weight", "fc.bias"}
    assert equal({k: loaded[k] for k in stored}, stored)


def test_stored_classes_are_dropped_or_kept_as_asked(hub):
    stored = make(hub / NAME, num_classes=5)
    assert equal(timm.create_model(NAME, pretrained=True).state_dict(), stored.state_dict())
    without = timm.create_model(NAME, pretrained=True, num_classes=0).state_dict()
    assert equal(without, {k: v for k, v in stored.state_dict().items() if not k.startswith("fc.")})


def test_adaptation_to_channels_and_size_equals_timms(hub):
    make(hub / "ti_test_vit", "test_vit")
    for kwargs in ({"in_chans": 1}, {"img_size": 96}, {"features_only": True}):
        expected = timm.create_model(f"local-dir:{hub / 'ti_test_vit'}", pretrained=True, **kwargs)
        loaded = timm.create_model("ti_test_vit", pretrained=True, **kwargs)
        assert equal(loaded.state_dict(), expected.state_dict())


def test_stored_arguments_and_input_are_used(hub):
    stored = make(hub / "ti_test_vit", "test_vit", img_size=64, in_chans=1)
    config = json.loads((hub / "ti_test_vit/config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.25]
    (hub / "ti_test_vit/config.json").write_text(json.dumps(config))
    loaded = timm.create_model("ti_test_vit", pretrained=True)
    assert equal(loaded.state_dict(), stored.state_dict())
    assert loaded.pretrained_cfg["mean"] == [0.25]
    assert loaded.pretrained_cfg["architecture"] == "test_vit"


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_tag_names_its_own_folder(hub, pretrained):
    make(hub / NAME)
    tagged = make(hub / f"{NAME}.other", num_classes=3)
    loaded = timm.create_model(f"{NAME}.other", pretrained=pretrained)
    assert loaded.num_classes == 3
    assert equal(loaded.state_dict(), tagged.state_dict()) is pretrained


def test_timms_scripts_find_the_weights(hub):
    stored = make(hub / NAME)
    args = resolve_model_input_args(NAME, {"input_size": (3, 96, 96)})
    assert isinstance(args["pretrained_cfg"], dict)
    assert equal(timm.create_model(**args, pretrained=True).state_dict(), stored.state_dict())


def test_an_explicit_file_is_taken_as_timm_takes_it(tmp_path):
    stored = make(tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors")}
    loaded = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay)
    assert equal(loaded.state_dict(), stored.state_dict())


@pytest.mark.parametrize("kind", ["o2", "affine"])
def test_the_stored_latent_transformer_comes_along(hub, kind):
    stored = timm.create_model(NAME, latent_transformer=kind)
    with torch.no_grad():
        for p in stored.latent_transformer.parameters():
            p.add_(torch.randn_like(p))
    stored.save_pretrained(hub / NAME)
    loaded = timm.create_model(NAME, pretrained=True, latent_transformer=True)
    assert equal(loaded.state_dict(), stored.state_dict())
    other = {"o2": "affine", "affine": "o2"}[kind]
    with pytest.raises(WeightsError, match=f"latent_transformer='{kind}', not '{other}'"):
        timm.create_model(NAME, pretrained=True, latent_transformer=other)


ORDER = """
import json, os, shutil, sys
from pathlib import Path
import torch, timm, ti_backbones
from timm.models import save_for_hf

assert Path(ti_backbones.__file__).is_relative_to(Path.cwd()), ti_backbones.__file__
places = {"package": "ti_backbones/weights", "checkout": "hub/models", "variable": os.environ["TI_BACKBONES_HUB"]}
for i, place in enumerate(places.values()):
    model = timm.create_model("ti_test_resnet")
    torch.nn.init.constant_(model.conv1[0].weight, i)
    save_for_hf(model, Path(place) / "ti_test_resnet", safe_serialization=True)
order = []
for _ in places:
    found = int(timm.create_model("ti_test_resnet", pretrained=True).conv1[0].weight.mean())
    order.append(list(places)[found])
    shutil.rmtree(places[order[-1]])
print(json.dumps(order))
"""


def test_package_before_checkout_before_variable(tmp_path):
    """A real copy of the package, with other weights in each place; what was found is removed and asked for again."""
    source = Path(ti_backbones.__file__).parent
    shutil.copytree(source, tmp_path / "ti_backbones", ignore=shutil.ignore_patterns("data", "weights", "__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    env = os.environ | {"TI_BACKBONES_HUB": str(tmp_path / "elsewhere"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ORDER], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["package", "checkout", "variable"]


LISTED = """
import json, timm, ti_backbones
def where(name):
    file = timm.get_pretrained_cfg(name).file
    return file and file.rpartition("models/")[2]
print(json.dumps([timm.list_models("ti_*", pretrained=True), where("ti_test_resnet"), where("ti_test_vit"),
                  timm.create_model("ti_test_vit", pretrained=True).num_classes]))
"""


def test_local_models_are_listed_as_pretrained(tmp_path):
    """Beside the published ones, and nothing else: no folder without weights, no unknown architecture."""
    make(tmp_path / "models" / NAME)
    make(tmp_path / "models" / f"{NAME}.other")
    make(tmp_path / "models" / "ti_test_vit.hands", "test_vit", num_classes=3)
    make(tmp_path / "models" / "ti_no_such_model")
    (tmp_path / "models" / "ti_resnet18").mkdir()
    env = os.environ | {"TI_BACKBONES_HUB": str(tmp_path / "models")}
    done = subprocess.run([sys.executable, "-c", LISTED], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, untagged, only_tag, classes = json.loads(done.stdout)
    ours = {NAME, f"{NAME}.other", "ti_test_vit.hands"}
    assert set(names) == ours | set(ti_backbones.registry.PUBLISHED) | set(local_models())
    assert untagged == f"{NAME}/model.safetensors"
    assert only_tag == "ti_test_vit.hands/model.safetensors"
    assert classes == 3


# --- Not found, or not fit -------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args):
        pytest.fail("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(("name", "start"), [
    (NAME, f"No pretrained weights exist for {NAME}"),
    (f"{NAME}.tag", rf"Invalid pretrained tag \(tag\) for {NAME}"),
])  # fmt: skip
def test_weights_found_nowhere(hub, no_network, name, start):
    with pytest.raises(RuntimeError, match=start) as error:
        timm.create_model(name, pretrained=True)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(hub), "pretrained=False", "TI_BACKBONES_HUB", f"'{name}'", "ti-backbones pretrain"):
        assert part in message


def test_a_path_is_no_name(hub):
    make(hub / "org/name")
    assert ti_backbones.registry.find_weights("org/name") is None


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    state = load_file(weights)
    if how == "no config":
        config.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "only a pickle":
        weights.unlink()
        torch.save(state, folder / "pytorch_model.bin")
    elif how == "cut short":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "a large-file pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif how == "other architecture":
        config.write_text(config.read_text().replace('"test_resnet"', '"resnet18"'))
    elif how == "a weight missing":
        save_file({k: v for k, v in state.items() if k != "conv1.0.weight"}, weights)
    elif how == "a weight too many":
        save_file({**state, "extra": torch.zeros(1)}, weights)
    elif how == "another shape":
        save_file({**state, "conv1.0.weight": torch.zeros(1, 3, 3, 3)}, weights)


@pytest.mark.parametrize(("how", "names"), [
    ("no config", "config.json"),
    ("no weights", "model.safetensors"),
    ("only a pickle", "model.safetensors"),
    ("cut short", "model.safetensors"),
    ("a large-file pointer", "model.safetensors"),
    ("other architecture", "'resnet18', not 'test_resnet'"),
    ("a weight missing", "'conv1.0.weight' is missing"),
    ("a weight too many", "'extra' is"),
    ("another shape", "'conv1.0.weight' is"),
])  # fmt: skip
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}])
def test_a_damaged_folder_is_refused_in_one_line(hub, how, names, kwargs):
    make(hub / NAME)
    damage(hub / NAME, how)
    with pytest.raises(InputError) as error:
        timm.create_model(NAME, pretrained=True, **kwargs)
    assert str(hub / NAME) in str(error.value)
    assert names in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_that_add_weights_are_refused(hub):
    make(hub / NAME)
    with pytest.raises(RuntimeError):  # timm's own, since it loads strictly
        timm.create_model(NAME, pretrained=True, block_args={"attn_layer": "se"})
    with pytest.raises(WeightsError, match=rf"{NAME}.*lack 'layer1.0.se"):  # timm would not, and leave them random
        timm.create_model(NAME, pretrained=True, num_classes=5, block_args={"attn_layer": "se"})


# --- Published -------------------------------------------------------------------------------------------------------

SERVED = """
import http.server, json, os, sys, threading
from pathlib import Path

root, revision, digests = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
asked = []

class Hub(http.server.BaseHTTPRequestHandler):
    "The one call of the Hub that a download makes: /<repo>/resolve/<revision>/<file>"
    def do_HEAD(self, body=False):
        asked.append(self.path)
        prefix = f"/org/resnet/resolve/{revision}/"
        file = root / self.path.removeprefix(prefix)
        if not (self.path.startswith(prefix) and file.is_file()):
            self.send_error(404)
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{digests[file.name]}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)
    def do_GET(self):
        self.do_HEAD(body=True)
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1"}
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import timm
from timm.models import register_model
from ti_backbones import register_aliases
from ti_backbones.registry import PUBLISHED, PublishedWeights

def published(pretrained=False, **kwargs): return timm.create_model("test_resnet", pretrained, **kwargs)
def broken(pretrained=False, **kwargs): return timm.create_model("test_resnet", pretrained, **kwargs)
register_model(published)
register_model(broken)
wrong = digests | {"model.safetensors": "0" * 64}
PUBLISHED["ti_published.hands"] = PublishedWeights("org/resnet", revision, digests, "apache-2.0")
PUBLISHED["ti_broken.hands"] = PublishedWeights("org/resnet", revision, wrong, "apache-2.0")
register_aliases()
from ti_backbones.published import find_weights

folder = find_weights("ti_published", cache_dir=root / "cache")
state = {f.name: f.read_bytes() == (root / f.name).read_bytes() for f in sorted(folder.iterdir())}
before = len(asked)
again = find_weights("ti_published.hands", cache_dir=root / "cache")
listed = timm.list_models("ti_*", pretrained=True)
cfg = timm.get_pretrained_cfg("ti_published")
errors = []
for name in ("ti_broken", "ti_published.unknown"):
    try:
        timm.create_model(name, pretrained=True, cache_dir=root / "cache")
    except RuntimeError as e:
        errors.append(str(e))
server.shutdown()
print(json.dumps({"state": state, "same": again == folder, "listed": listed, "hub_id": cfg.hf_hub_id,
                  "asked_again": len(asked) - before, "errors": errors}))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The real Hub client against a local server that answers its download call."""
    folder, revision = tmp_path_factory.mktemp("served"), "0123456789abcdef0123456789abcdef01234567"
    make(folder)
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TI_BACKBONES_HUB")}
    command = [sys.executable, "-c", SERVED, str(folder), revision, json.dumps(digests)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_published_weights_are_downloaded_once(served):
    assert served["state"] == {"config.json": True, "model.safetensors": True}
    assert served["same"]
    assert served["asked_again"] == 0


def test_published_weights_are_listed_as_pretrained(served):
    assert sorted(served["listed"]) == sorted(["ti_broken.hands", "ti_published.hands", *local_models()])
    assert served["hub_id"].startswith("org/resnet@0123456789abcdef")


def test_published_weights_of_another_digest_are_refused(served):
    digest, tag = served["errors"]
    assert "'model.safetensors' of 'ti_broken.hands' (org/resnet at " in digest
    assert "sha256" in digest
    assert tag.startswith("Invalid pretrained tag (unknown) for ti_published: published tags: hands;")
