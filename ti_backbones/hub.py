"""`ti-backbones publish`: a model folder as one commit on the Hugging Face Hub.

Everything is uploaded before the commit, and the commit is one request: the published revision is either the old one or
the new one. What the Hub holds already is not sent again, and without a change there is no commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .download import explain, hub_id, sha256, why_unreachable
from .errors import InputError, first_line
from .model_folder import CARD_FILE, COMPARISON, EVALUATION, LOADED, TOP, PublicFolder, read_model_folder
from .published import PublishedWeights

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

OURS = {*TOP, *EVALUATION, *COMPARISON} - {CARD_FILE}  # what an earlier publication may have left on the Hub


@dataclass
class PublishConfig:
    """Publish a model folder on the Hugging Face Hub, as one commit; log in first with `hf auth login` or HF_TOKEN."""

    folder: Path
    """model folder: model.safetensors, config.json, latent_transformer.safetensors, and what was measured"""
    repo_id: str
    """repository, organisation/name; it is made if there is none"""
    private: bool = False
    """make the repository private, if it is made"""
    revision: str = "main"
    """branch to publish on; it is made if there is none"""
    tag: str = ""
    """tag the commit with this name"""
    license: str = ""
    """licence of the weights as the Hub spells it, such as apache-2.0 or cc-by-nc-4.0; that of the recipe if empty"""
    recipe: Path | None = None
    """how the model was made, for the card; recipe.toml of the folder if not given"""
    name: str = ""
    """what the card calls the model; the folder's name if empty"""
    dry_run: bool = False
    """show what would go, and send nothing"""


@dataclass(frozen=True)
class FileState:
    """One file of a publication. state: new, changed, unchanged, removed, or unknown (the Hub was not asked)."""

    path: str
    size: int
    sha256: str
    state: str


@dataclass(frozen=True)
class Publication:
    """What was published, or would be.

    Attributes:
        files: each with its state before. commit: its revision now; "" for a dry run. changed: whether that is new.
        left_out: of the folder. table: the entry for the table of published weights. note: what was not looked at.
    """

    repo_id: str
    files: list[FileState]
    commit: str
    changed: bool
    left_out: list[str]
    table: PublishedWeights
    note: str = ""
    tag: str = ""

    def text(self) -> str:
        """A line for each file, and what came of it."""
        lines = [f"  {f.state:<10}{f.size:>13,} B  {f.sha256}  {f.path}" for f in self.files]
        lines += [f"  left out: {', '.join(self.left_out)}"] if self.left_out else []
        lines += [f"  {self.note}"] if self.note else []
        at = f"{self.repo_id} at {self.commit}" + (f" (tag {self.tag})" if self.tag else "")
        if not self.commit:
            lines.append(f"dry run: nothing was sent to {self.repo_id}")
        else:
            lines.append(f"published {at}" if self.changed else f"unchanged: {at}")
        return "\n".join(lines)


@dataclass
class Remote:
    """What the Hub holds: commit of the branch ("" without), its files by path, tag -> commit."""

    commit: str = ""
    files: dict[str, RepoFile] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    exists: bool = False


def publish(config: PublishConfig) -> Publication:
    """Publish a model folder.

    Raises:
        InputError: for a folder that cannot be published, or what the Hub says against it; the published revision
            is then as it was.
    """
    from huggingface_hub import HfApi

    if hub_id(config.repo_id) != (config.repo_id, None):
        raise InputError(f"--repo-id is '{config.repo_id}': it must be organisation/name")
    public = read_model_folder(config.folder, f"hf-hub:{config.repo_id}", config.license, config.recipe, config.name)
    api, unreachable = HfApi(library_name="ti-backbones"), why_unreachable()
    if unreachable:
        if not config.dry_run:
            raise InputError(f"'{config.folder}' cannot be published to {config.repo_id}: {unreachable}: connect")
        files = _compare(public, None)
        return _publication(config, public, files, Remote(), note=f"not compared with the Hub: {unreachable}")
    with _explained(config):
        if not config.dry_run:
            api.whoami()
        remote = _remote(api, config)
        files = _compare(public, remote)
        if config.tag and remote.tags.get(config.tag) and not _is_at(remote, config.tag, files):
            raise InputError(
                f"tag '{config.tag}' of {config.repo_id} is another model ({remote.tags[config.tag]}): give another tag"
            )
        if config.dry_run:
            return _publication(config, public, files, remote, note="" if remote.exists else "a new repository")
        return _send(api, config, public, files, remote)


def _send(
    api: HfApi, config: PublishConfig, public: PublicFolder, files: list[FileState], remote: Remote
) -> Publication:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if not remote.exists:
        api.create_repo(config.repo_id, private=config.private, exist_ok=True)
    if not remote.commit:
        if config.revision != "main":
            api.create_branch(config.repo_id, branch=config.revision, exist_ok=True)
        remote = _remote(api, config)
    changed = [f for f in files if f.state != "unchanged"]
    commit = remote.commit
    if changed:
        operations: list[Any] = [
            CommitOperationDelete(f.path) if f.state == "removed" else CommitOperationAdd(f.path, public.files[f.path])
            for f in changed
        ]
        message = f"Publish {public.name}"
        commit = api.create_commit(
            config.repo_id, operations, commit_message=message, revision=config.revision, parent_commit=commit or None
        ).oid
    if config.tag and config.tag not in remote.tags:
        api.create_tag(config.repo_id, tag=config.tag, revision=commit)
    return _publication(config, public, files, Remote(commit), bool(changed))


def _publication(
    config: PublishConfig, public: PublicFolder, files: list[FileState], remote: Remote, changed=False, note: str = ""
) -> Publication:
    commit = "" if config.dry_run else remote.commit
    digests = {f.path: f.sha256 for f in files if f.path in LOADED}
    table = PublishedWeights(config.repo_id, commit, digests, public.license, public.metrics)
    return Publication(config.repo_id, files, commit, changed, public.left_out, table, note, config.tag)


def _remote(api: HfApi, config: PublishConfig) -> Remote:
    """What the Hub holds of a repository now."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        refs = api.list_repo_refs(config.repo_id)
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        info = api.model_info(config.repo_id, revision=config.revision)
    except RevisionNotFoundError:
        return Remote(exists=True)
    except RepositoryNotFoundError as e:
        if e.response.headers.get("X-Error-Code") == "GatedRepo" or "Invalid credentials" in str(e):
            raise
        return Remote()
    tree = api.list_repo_tree(config.repo_id, recursive=True, revision=info.sha)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    return Remote(info.sha or "", files, tags, exists=True)


def _compare(public: PublicFolder, remote: Remote | None) -> list[FileState]:
    """State of every file that goes; remote None: not known. Files of ours that the folder has no more are removed."""
    files = []
    for path, content in sorted(public.files.items()):
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)
        state = "unknown"
        if remote is not None:
            there = remote.files.get(path)
            state = "new" if there is None else "unchanged" if _same(there, content, digest) else "changed"
        files.append(FileState(path, size, digest, state))
    for path, there in sorted(remote.files.items() if remote else ()):
        if path not in public.files and path.rpartition("/")[2] in OURS:
            files.append(FileState(path, there.size, "-" * 64, "removed"))
    return files


def _same(there: RepoFile, content: bytes | Path, digest: str) -> bool:
    """Large files are known by their sha256, the others by git's own digest."""
    if there.lfs is not None:
        return there.lfs.sha256 == digest
    data = content if isinstance(content, bytes) else content.read_bytes()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_at(remote: Remote, tag: str, files: list[FileState]) -> bool:
    """Whether a tag is at the branch's commit, and that is what would be published."""
    return remote.tags[tag] == remote.commit and all(f.state == "unchanged" for f in files)


@contextmanager
def _explained(config: PublishConfig) -> Iterator[None]:
    """Errors of the Hub's client as one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as e:  # the client raises errors of several libraries
        reason = explain(e, config.repo_id)
        if isinstance(e, ValueError) and "README.md" in str(e):
            reason = f"the Hub refuses the card ({first_line(ValueError(str(e).partition(chr(10))[2]))})"
        raise InputError(
            f"'{config.folder}' cannot be published to {config.repo_id}: {reason}; what is published is as it was"
        ) from e
