"""`ti-backbones publish`: the genuine client of the Hub against a local server that speaks its calls."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from hub_clients import Clients, command_code
from hub_models import HOME, RECIPE, model_folder, tensors
from hub_server import TOKEN, HubServer
from safetensors.torch import save_file

NAME = "org/ti_test_resnet"
LICENSE = ("--license", "cc-by-nc-4.0")
MODEL_FILES = {"README.md", "config.json", "latent_transformer.safetensors", "model.safetensors"}
MEASURED = {"certificate.json", "certificate.png"}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ti_test_resnet"
    model_folder(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "models" / "ti_test_resnet"))


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    server = HubServer()
    running = Clients(server, tmp_path_factory.mktemp("clients"))
    yield running
    running.close()
    server.close()


@pytest.fixture
def hub(clients) -> HubServer:
    """An empty Hub without faults."""
    server = clients.server
    for kept in (server.repositories, server.large, server.faults, server.log):
        kept.clear()
    return server


def assert_refused(ended, *words) -> None:
    """Exit code 2 and one line on stderr, after what the client says of its retries."""
    assert ended.code == 2, ended.out + ended.err
    *before, last = [line for line in ended.err.splitlines() if line.strip()]
    assert all(re.match(r"Retrying in|.* thrown while requesting|HTTP Error 5", line) for line in before), ended.err
    for word in ("ti-backbones: error: ", *words):
        assert str(word) in last, last


# --- What goes -------------------------------------------------------------------------------------------------------

STORY = """
import json, pathlib, shutil
from ti_backbones.errors import InputError
from ti_backbones.hub import PublishConfig, publish

folder, said = pathlib.Path({folder!r}), []
def go(**options):
    try:
        done = publish(PublishConfig(folder, {name!r}, license="cc-by-nc-4.0", **options))
        said.append([done.text(), done.commit, {{f.path: f.state for f in done.files}}])
    except InputError as e:
        said.append([str(e), "", {{}}])

go(dry_run=True)
go(tag="v1")
go(tag="v1")
certificate = json.loads((folder / "certificate.json").read_text())
(folder / "certificate.json").write_text(json.dumps(certificate | {{"gain": 0.25}}))
(folder / "certificate.png").unlink()
go(dry_run=True)
go(tag="v1")
go(tag="v2")
go(revision="next")
print(json.dumps(said))
"""


def test_first_second_and_changed_upload(hub, clients, folder):
    ended = clients.run(STORY.format(folder=str(folder), name=NAME))
    dry, first, again, dry_changed, other_tag, changed, branch = ended.value
    made = hub.repositories[NAME]
    titles = {commit.title for commit in made.commits.values()}
    assert titles == {"initial commit", "Publish ti_test_resnet"}

    assert set(dry[2].values()) == {"new"}
    assert dry[2].keys() == MODEL_FILES | MEASURED
    for path in MODEL_FILES - {"config.json", "README.md"}:
        digest = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        assert f"{(folder / path).stat().st_size:,} B  {digest}  {path}" in dry[0]
    assert "left out: training" in dry[0]
    assert "nothing was sent" in dry[0]

    sent = made.commits[first[1]].files
    assert sent.keys() == MODEL_FILES | MEASURED | {".gitattributes"}
    for path in ("model.safetensors", "latent_transformer.safetensors"):
        assert sent[path] == (folder / path).read_bytes()
    assert not any(HOME.encode() in content or b"runs/before" in content for content in sent.values())
    assert made.tags == {"v1": first[1], "v2": changed[1]}

    assert again[1] == first[1]
    assert set(again[2].values()) == {"unchanged"}
    assert "unchanged: org/ti_test_resnet" in again[0]

    states = {p: s for p, s in dry_changed[2].items() if s != "unchanged"}
    assert states == {"README.md": "changed", "certificate.json": "changed", "certificate.png": "removed"}
    assert "tag 'v1'" in other_tag[0]
    assert first[1] in other_tag[0]
    now = made.commits[changed[1]].files
    assert b"0.25" in now["README.md"]
    assert now.keys() == sent.keys() - {"certificate.png"}
    assert len(made.commits) == 3
    assert made.branches == {"main": changed[1], "next": changed[1]}
    assert branch[1] == changed[1]
    assert hub.calls("^PUT ") == 3  # two files of weights and the figure, once each


def test_a_private_repository_needs_the_token(hub, clients, folder):
    assert clients.command("publish", folder, "--repo-id", NAME, "--private", *LICENSE).code == 0
    assert hub.repositories[NAME].private
    load = f"from ti_backbones import TIBackbone\nprint(TIBackbone.from_pretrained({NAME!r}).latent_dim)"
    refused = clients.run(load, token="", HF_HOME=str(folder / "empty"))
    assert f"'{NAME}'" in refused.err
    assert "private one that the token may not read" in refused.err
    assert clients.run(load).value == 96  # of test_resnet


PUBLISH_ALL = """
import json, sys
sys.path.insert(0, {root!r})
from hub.publish_all import main
sys.argv = ["publish_all", "--models", {models!r}, "--recipes", {recipes!r}, "--table", {table!r}]
assert main() == 0
before = open({table!r}).read()
assert main() == 0
assert open({table!r}).read() == before

import timm
from ti_backbones import TIBackbone
from ti_backbones.registry import PUBLISHED, PublishedWeights
PUBLISHED |= {{k: PublishedWeights(**v) for k, v in json.loads(before).items()}}
ti = TIBackbone.from_pretrained("ti_test_vit.hands")
assert timm.create_model("ti_test_vit", pretrained=True).num_features == ti.num_features
print(json.dumps(sorted(PUBLISHED)))
"""


def test_publish_all_writes_the_table_that_loads(hub, clients, folder, tmp_path):
    model_folder(folder.parent / "ti_test_vit.hands", "test_vit", figure=False)
    (tmp_path / "recipes").mkdir()
    for name in ("ti_test_resnet", "ti_test_vit.hands"):
        (tmp_path / "recipes" / f"{name}.toml").write_text(RECIPE)
    paths = {"models": folder.parent, "recipes": tmp_path / "recipes", "table": tmp_path / "published.json"}
    root = Path(__file__).resolve().parents[1]
    ended = clients.run(PUBLISH_ALL.format(root=str(root), **{k: str(v) for k, v in paths.items()}))
    assert ended.value == ["ti_test_resnet", "ti_test_vit.hands"]
    assert "unchanged: tester/ti_test_vit.hands" in ended.out
    made = hub.repositories["tester/ti_test_vit.hands"]
    entry = json.loads(paths["table"].read_text())["ti_test_vit.hands"]
    assert entry["repo_id"] == "tester/ti_test_vit.hands"
    assert entry["revision"] == made.branches["main"]
    assert made.tags.popitem()[1] == entry["revision"]
    assert entry["license"] == "apache-2.0"
    assert entry["metrics"].keys() == {"gain", "moving_share"}
    sent = made.commits[entry["revision"]].files
    assert sent["recipe.toml"].decode() == RECIPE
    for file, digest in entry["sha256"].items():
        assert hashlib.sha256(sent[file]).hexdigest() == digest


# --- What goes wrong on the way --------------------------------------------------------------------------------------


def published(hub, clients, folder) -> str:
    """Publish, change the weights, and give the published revision."""
    assert clients.command("publish", folder, "--repo-id", NAME, *LICENSE).code == 0
    weights = tensors(folder / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, folder / "model.safetensors")
    return hub.repositories[NAME].branches["main"]


def test_a_killed_upload_leaves_the_published_revision(hub, clients, folder):
    before = published(hub, clients, folder)
    files = dict(hub.repositories[NAME].commits[before].files)
    fault = hub.fault("PUT /storage", cut=True, wait=20, times=1)
    pid = clients.start(command_code("publish", folder, "--repo-id", NAME, *LICENSE))
    assert fault.met.wait(30)
    clients.kill(pid)
    assert clients.wait().code == -9
    assert hub.repositories[NAME].branches == {"main": before}
    assert hub.repositories[NAME].commits[before].files == files
    ended = clients.command("publish", folder, "--repo-id", NAME, *LICENSE)
    assert ended.code == 0, ended.err
    now = hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]].files
    assert now["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_connection_that_is_cut_once_is_tried_again(hub, clients, folder):
    hub.fault("PUT /storage", cut=True, times=1)
    hub.fault("POST .*preupload", status=500, times=1)
    hub.fault("GET .*refs", wait=1.5)
    ended = clients.command("publish", folder, "--repo-id", NAME, *LICENSE)
    assert ended.code == 0, ended.err
    assert len(hub.repositories[NAME].commits) == 2


def test_a_refused_commit_leaves_the_published_revision(hub, clients, folder):
    hub.put(NAME, folder)
    before = dict(hub.repositories[NAME].branches)
    refusals = {500: "the Hub answers 500: try again later", 412: "the branch has moved meanwhile"}
    refusals[403] = "the Hub does not allow it (403)"
    for status in refusals:
        hub.fault("POST .*/commit/", status=status, times=1)
    arguments = ["publish", str(folder), "--repo-id", NAME, *LICENSE]
    ended = clients.run(f"from ti_backbones.cli import main\nprint([main({arguments!r}) for _ in range(3)])")
    assert ended.value == [2, 2, 2]
    for words, line in zip(refusals.values(), ended.err.splitlines(), strict=True):
        for part in (f"'{folder}'", NAME, words, "what is published is as it was"):
            assert part in line
    assert hub.repositories[NAME].branches == before


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"status": 503}, {"cut": True}])
def test_an_upload_that_never_ends_is_given_up(fault, hub, clients, folder):
    before = published(hub, clients, folder)
    hub.fault("PUT /storage", **fault)
    ended = clients.command("publish", folder, "--repo-id", NAME, *LICENSE)
    assert_refused(ended, NAME, "what is published is as it was")
    assert hub.repositories[NAME].branches == {"main": before}


def test_tokens_and_rights(hub, clients, folder):
    code = """
import contextlib, io, json, os
from ti_backbones.cli import main
said = []
for token, name, more in {cases!r}:
    os.environ["HF_TOKEN"] = token
    with contextlib.redirect_stderr(io.StringIO()) as err:
        said.append([main(["publish", {folder!r}, "--repo-id", name, *more]), err.getvalue()])
print(json.dumps(said))
"""
    given = list(LICENSE)
    cases = [("hf_wrong", NAME, given), ("", NAME, given), (TOKEN, "others/m", given)]
    cases += [(TOKEN, NAME, ["--license", "my own"]), (TOKEN, "ti_test_resnet", given)]
    wrong, none, foreign, card, no_name = clients.run(code.format(cases=cases, folder=str(folder))).value
    assert {c for c, _ in (wrong, none, foreign, card, no_name)} == {2}
    assert all(line.count("\n") == 1 for _, line in (wrong, none, foreign, card, no_name))
    assert "the Hub refuses the token" in wrong[1]
    assert "there is no token: log in with `hf auth login`" in none[1]
    assert "the Hub does not allow it (403)" in foreign[1]
    assert "the Hub refuses the card" in card[1]
    assert "license" in card[1]
    assert "--repo-id is 'ti_test_resnet'" in no_name[1]
    assert not any(len(r.commits) > 1 for r in hub.repositories.values())


def test_without_a_network(clients, folder):
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    ended = clients.command("publish", folder, "--repo-id", NAME, *LICENSE, **away)
    assert_refused(ended, NAME, "http://127.0.0.1:9 cannot be reached")
    dry = clients.command("publish", folder, "--repo-id", NAME, "--dry-run", *LICENSE, **away)
    assert dry.code == 0, dry.err
    assert dry.out.count("unknown") == 6
    assert "not compared with the Hub" in dry.out
