"""Loading from the Hub with its genuine client: what is found, what is kept, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from hub_clients import Clients
from hub_models import model_folder, tensors
from hub_server import TOKEN, HubServer
from safetensors.torch import load_file, save_file

from ti_backbones.inspection import InspectConfig, inspect

NAME = "org/m"
PRINT = """
import json, time, torch, timm, ti_backbones
from ti_backbones import TIBackbone
from ti_backbones.registry import PUBLISHED, PublishedWeights
from ti_backbones.cli import main

def first(model):
    return model.state_dict()["conv1.0.weight"].flatten()[0].item()

def attempt(do):
    "Its result, or its error and the seconds to it."
    began = time.monotonic()
    try:
        return do()
    except Exception as e:
        return [type(e).__name__, str(e), time.monotonic() - began]
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ti_test_resnet"
    model_folder(folder, figure=False)
    shutil.rmtree(folder / "training")
    return folder


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    server = HubServer()
    running = Clients(server, tmp_path_factory.mktemp("clients"))
    yield running
    running.close()
    server.close()


@pytest.fixture
def clients(processes, tmp_path) -> Clients:
    """Clients with an empty cache, of an empty Hub without faults."""
    server = processes.server
    for kept in (server.repositories, server.large, server.faults, server.log):
        kept.clear()
    processes.folder = tmp_path
    return processes


def first(folder: Path) -> float:
    """A number that tells weights apart; the clients' `first` gives the same of a model."""
    return load_file(folder / "model.safetensors")["conv1.0.weight"].flatten()[0].item()


def changed(folder: Path, to: Path, change) -> Path:
    """A copy of a model folder with other weights."""
    shutil.copytree(folder, to)
    state = tensors(folder / "model.safetensors")
    save_file(change(state), to / "model.safetensors")
    return to


# --- What is loaded --------------------------------------------------------------------------------------------------


def test_revisions_are_pinned_and_kept_offline(clients, original, tmp_path):
    hub = clients.server
    old = hub.put(NAME, original)
    repository = hub.repositories[NAME]
    repository.tags["v1"] = old
    other = changed(original, tmp_path / "other", lambda state: {k: v + 1 for k, v in state.items()})
    repository.add({p.name: p.read_bytes() for p in other.iterdir()}, "newer")
    names = [NAME, f"{NAME}@v1", f"hf-hub:{NAME}@{old}", f"hf-hub:{NAME}"]
    code = f"{PRINT}\nprint(json.dumps([first(TIBackbone.from_pretrained(n).encoder) for n in {names!r}]))"
    expected = [first(other), first(original), first(original), first(other)]
    assert clients.run(code).value == expected
    sent = hub.calls("GET /storage")
    assert sent == 3  # each file of weights once, and the latent transformer is the same in both revisions
    assert clients.run(code, HF_HUB_OFFLINE="1").value == expected
    assert clients.run(code, HF_ENDPOINT="http://127.0.0.1:9").value == expected
    assert hub.calls("GET /storage") == sent
    plain = f"{PRINT}\nprint(first(timm.create_model('hf-hub:{NAME}', pretrained=True)))"
    assert clients.run(plain, HF_HUB_OFFLINE="1").value == expected[0]


def test_commands_take_a_repository(clients, original, tmp_path):
    """inspect and finetune take org/name as from_pretrained does: with its own latent transformer, none is fitted."""
    clients.server.put(NAME, original)
    code = f"""{PRINT}
from ti_backbones.inspection import InspectConfig, inspect
from ti_backbones.pose.finetune_config import FinetuneConfig
from ti_backbones.pose.start import start_from

encoder, latent_transformer, _ = start_from(FinetuneConfig(out="run", model={NAME!r}))
certificate = inspect(InspectConfig({NAME!r}, limit=4, angles=4))
print(json.dumps([first(encoder), latent_transformer.config(), certificate.gain]))"""
    loaded, transformer, gain = clients.run(code).value
    assert loaded == first(original)
    assert transformer == json.loads((original / "config.json").read_text())["ti_backbones"]["latent_transformer"]
    assert gain == pytest.approx(inspect(InspectConfig(str(original), limit=4, angles=4)).gain, abs=1e-5)


def test_transient_faults_are_overcome(clients, original):
    hub = clients.server
    hub.put(NAME, original)
    hub.fault("HEAD .*/resolve/", status=500, times=2)
    hub.fault("HEAD .*/resolve/", wait=1.5, times=1)
    hub.fault("GET /storage", cut=True, times=1)
    ended = clients.run(f"{PRINT}\nprint(first(TIBackbone.from_pretrained({NAME!r}).encoder))")
    assert ended.value == first(original)
    assert hub.calls("GET /storage") == 3  # one of two files in two parts


# --- What is refused -------------------------------------------------------------------------------------------------


def broken(hub: HubServer, original: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """Repositories that cannot be loaded, and what their errors must say."""
    for name in ("private", "gated", "no-file", "pickle", "pickle-beside", "truncated"):
        shutil.copytree(original, folder / name)
    weights = original / "model.safetensors"
    (folder / "no-file/config.json").unlink()
    torch.save(tensors(weights), folder / "pickle/model.safetensors")
    (folder / "pickle-beside/model.safetensors").rename(folder / "pickle-beside/pytorch_model.bin")
    (folder / "truncated/model.safetensors").write_bytes(weights.read_bytes()[:-100])
    changed(original, folder / "missing-key", lambda s: {k: v for k, v in s.items() if k != "conv1.0.weight"})
    changed(original, folder / "other-shapes", lambda s: {**s, "conv1.0.weight": torch.zeros(1, 3, 3, 3)})
    for path in sorted(folder.iterdir()):
        hub.put(f"org/{path.name}", path, private=path.name == "private", gated=path.name == "gated")
    return {
        "org/absent": ("no such repository", "log in with"),
        "org/private": ("private one that the token may not read", "HF_TOKEN"),
        "org/gated": ("it is gated: ask for access at", "org/gated", "HF_TOKEN"),
        "org/no-file": ("'config.json'", "no such file"),
        "org/pickle": ("model.safetensors' cannot be read as safetensors", "no pickle is read"),
        "org/pickle-beside": ("'model.safetensors'", "no such file"),
        "org/truncated": ("model.safetensors' cannot be read as safetensors",),
        "org/missing-key": ("'conv1.0.weight' is missing", "save the model again"),
        "org/other-shapes": ("'conv1.0.weight' is [1, 3, 3, 3]", "save the model again"),
        "org/truncated@v9": ("no such revision",),
        "org/no--name": ("is no repository",),
    }


def test_what_cannot_be_loaded_is_named_in_one_line(clients, original, tmp_path):
    cases = broken(clients.server, original, tmp_path / "broken")
    code = f"""{PRINT}
errors = [attempt(lambda: TIBackbone.from_pretrained(n).latent_dim) for n in {list(cases)!r}]
errors.append(attempt(lambda: TIBackbone("hf-hub:org/absent", pretrained=True)))
print(json.dumps(errors))"""
    *errors, encoder = clients.run(code, token="").value
    assert "model 'hf-hub:org/absent' cannot be had: no such repository" in encoder[1]
    for (name, words), error in zip(cases.items(), errors, strict=True):
        assert isinstance(error, list), (name, "was loaded")
        kind, message, _ = error
        assert kind == "WeightsError", error
        assert "\n" not in message
        for word in (f"'{name}'", *words):
            assert word in message, message


PUBLISHED = (
    PRINT
    + """
from ti_backbones.published import WEIGHTS_FILE
table = json.loads({table!r})
PUBLISHED |= {{k: PublishedWeights(**v) for k, v in table.items()}}
def load(name):
    return first(timm.create_model(name, pretrained=True))
print(json.dumps([attempt(lambda: load(n)) for n in {names!r}]))
"""
)


def entries(hub: HubServer, original: Path) -> dict[str, dict]:
    """A table of published weights: one right, and some that promise what the Hub does not hold."""
    import hashlib

    revision = hub.put(NAME, original)
    files = ("config.json", "model.safetensors", "latent_transformer.safetensors")
    digests = {f: hashlib.sha256((original / f).read_bytes()).hexdigest() for f in files}
    right = {"repo_id": NAME, "revision": revision, "sha256": digests, "license": "mit", "metrics": {"gain": 0.5}}
    return {
        "ti_test_resnet.right": right,
        "ti_test_resnet.wrong": right | {"sha256": digests | {"model.safetensors": "0" * 64}},
        "ti_test_resnet.unpublished": right | {"repo_id": "org/unpublished"},
        "ti_test_resnet.later": right | {"revision": "0" * 40},
    }


def test_published_names(clients, original):
    table = entries(clients.server, original)
    run = PUBLISHED.format(table=json.dumps(table), names=[*table, "ti_test_resnet", "ti_test_resnet.other"])
    right, wrong, unpublished, later, default, other = clients.run(run).value
    assert right == default == first(original)
    assert "'model.safetensors' of 'ti_test_resnet.wrong' (org/m at " in wrong[1]
    assert "not what was published (sha256): delete '" in wrong[1]
    assert "'ti_test_resnet.unpublished' (org/unpublished" in unpublished[1]
    assert "no such repository" in unpublished[1]
    assert "no such revision" in later[1]
    assert "published tags: right, wrong, unpublished, later" in other[1]
    asked = len(clients.server.log)
    again = PUBLISHED.format(table=json.dumps(table), names=["ti_test_resnet"])
    assert clients.run(again).value == [right]
    assert len(clients.server.log) == asked  # a full commit that is in the cache needs no network


def test_a_bad_token_and_damage_on_the_way(clients, original):
    hub, table = clients.server, entries(clients.server, original)
    run = PUBLISHED.format(table=json.dumps(table), names=["ti_test_resnet.right"])
    [bad_token] = clients.run(run, token="hf_wrong").value
    assert "'ti_test_resnet.right' (org/m at" in bad_token[1]
    assert "the Hub refuses the token" in bad_token[1]
    hub.fault("GET /storage", replace=lambda data: data[:-4] + b"evil", times=1)
    [damaged] = clients.run(run, token=TOKEN).value
    assert "(sha256): delete '" in damaged[1]
    path = Path(damaged[1].split("delete '")[1].partition("'")[0])
    path.unlink()
    assert clients.run(run).value == [first(original)]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "words"), [
    ({"request": "HEAD .*/resolve/", "status": 503}, "the Hub answers 503: try again later"),
    ({"request": "GET /storage", "cut": True}, "try again"),
])  # fmt: skip
def test_a_hub_that_stays_broken_is_given_up(fault, words, clients, original):
    table = entries(clients.server, original)
    clients.server.fault(**fault)
    run = PUBLISHED.format(table=json.dumps(table), names=["ti_test_resnet.right"])
    [error] = clients.run(run).value
    assert "'ti_test_resnet.right' (org/m at" in error[1]
    assert words in error[1]


# --- No network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def black_hole():
    """An address that takes no connection and says nothing: a full queue."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for one in waiting:
            one.close()


@pytest.mark.parametrize("network", ["refused", "silent", "offline", "hanging"])
def test_no_network_and_nothing_cached(network, clients, original, black_hole):
    """Five seconds are promised; a Hub that accepts and then says nothing gets the client's own time, here one."""
    table = entries(clients.server, original)
    environment = {
        "refused": {"HF_ENDPOINT": "http://127.0.0.1:9"},
        "silent": {"HF_ENDPOINT": black_hole},
        "offline": {"HF_HUB_OFFLINE": "1"},
        "hanging": {"HF_HUB_ETAG_TIMEOUT": "1"},
    }[network]
    if network == "hanging":
        clients.server.fault("HEAD ", wait=20)
    names = ["ti_test_resnet.right", NAME]
    code = PUBLISHED.replace("return first(timm.create_model(name, pretrained=True))", """return (
        TIBackbone.from_pretrained(name).latent_dim if "/" in name else first(timm.create_model(name, pretrained=True)))
""")  # fmt: skip
    answers = clients.run(code.format(table=json.dumps(table), names=names), **environment).value
    for name, (kind, message, seconds) in zip(names, answers, strict=True):
        assert kind == "WeightsError"
        assert f"weights of '{name}' are not in the cache ('config.json' of org/m)" in message
        reason = {"offline": "HF_HUB_OFFLINE is set", "hanging": "does not answer"}.get(network, "cannot be reached")
        assert reason in message
        assert "connect, or give a folder that holds them" in message
        assert seconds < 5


def test_the_command_line_says_it_in_one_line(clients, tmp_path):
    ended = clients.command("export", "org/m", "--to", "pth", HF_ENDPOINT="http://127.0.0.1:9")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "ti-backbones: error: weights of 'org/m' are not in the cache" in ended.err
    assert not list(tmp_path.glob("*.pth"))
