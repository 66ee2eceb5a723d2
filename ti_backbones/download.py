"""Files from the Hugging Face Hub, or in one line the reason why not.

Without a network the Hub's client retries for most of a minute, and then raises an error that names no model. So a
connection is tried first; the client's own patience with a slow or failing Hub is left as it is.
"""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import timm

from .errors import InputError, first_line

TIMEOUT_S = 3.0
HUB_ID = re.compile(r"(?:hf[-_]hub:)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class WeightsError(InputError, RuntimeError):
    """Weights that cannot be found or do not fit. A RuntimeError too, as timm's own errors about weights are."""


def hub_id(name: str) -> tuple[str, str | None] | None:
    """(repository, revision or None) of "org/name", "org/name@revision" or the same behind "hf-hub:"; None if neither.

    >>> hub_id("hf-hub:org/name@v1")
    ('org/name', 'v1')
    """
    found = HUB_ID.fullmatch(name)
    return (found[1], found[2]) if found else None


def fetch(
    name: str, repository: str, revision: str | None, files: Sequence[str], cache_dir: str | Path | None = None
) -> list[Path]:
    """Files of a Hub repository in the cache, fetched if they are not there.

    Files of a full commit that are in the cache are taken without asking the network. Where the Hub cannot be
    reached, what was fetched last is taken.

    Args:
        name: what the user asked for, for messages. revision: commit, branch or tag; None: main.

    Raises:
        WeightsError: naming model, repository and the way out.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        known = [try_to_load_from_cache(repository, f, cache_dir, revision) for f in files]
    except HFValidationError as e:
        raise WeightsError(f"'{name}' is no repository of the Hugging Face Hub: {first_line(e)}") from e
    pinned = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision)
    paths, unreachable = [], None
    if not (pinned and all(isinstance(path, str) for path in known)):
        unreachable = why_unreachable() or _why_silent(repository, files[0], revision)
    for file, cached in zip(files, known, strict=True):
        if unreachable and not isinstance(cached, str):
            raise WeightsError(
                f"weights of '{name}' are not in the cache ('{file}' of {repository}), and {unreachable}:"
                " connect, or give a folder that holds them"
            )
        try:
            path = cached
            if not unreachable:
                path = hf_hub_download(repository, file, revision=revision, cache_dir=cache_dir)
        except Exception as e:  # the client raises errors of several libraries; all mean the same here
            at = f"{repository} at {revision}" if revision else repository
            raise WeightsError(f"'{file}' of '{name}' ({at}) cannot be had: {explain(e, repository)}") from e
        paths.append(Path(str(path)))
        _check_whole(paths[-1], file, name, repository)
    return paths


def _check_whole(path: Path, file: str, name: str, repository: str) -> None:
    """Large files lie in the cache under their sha256: compare."""
    digest = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", digest) and sha256(path) != digest:
        raise WeightsError(
            f"'{file}' of '{name}' ({repository}) is damaged (sha256): delete '{path.resolve()}' and load it again"
        )


def sha256(path: Path) -> str:
    """The digest of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_reachable(name: str) -> None:
    """Check that the weights of a timm model can be had: from the cache, or from the Hub.

    Args:
        name: a timm name or "hf-hub:org/name"; anything else passes.

    Raises:
        WeightsError: naming the model, if the Hub does not answer and no file of it is in the cache.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, revision, files = _source(name)
    if not repository:
        return
    if any(isinstance(try_to_load_from_cache(repository, f, revision=revision), str) for f in files):
        return
    if unreachable := why_unreachable():
        raise WeightsError(
            f"weights of '{name}' are not in the cache, and {unreachable}:"
            " connect, give the weights as a file, or start from random ones"
        )


def why_unreachable() -> str | None:
    """Why no connection to the Hub, or to the proxy in front of it, can be had within a few seconds; None if it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"{constants.ENDPOINT} cannot be reached (HF_HUB_OFFLINE is set)"
    url = urlsplit(constants.ENDPOINT)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    said = [f"no answer within {TIMEOUT_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection(
                (url.hostname, url.port or (443 if url.scheme == "https" else 80)), TIMEOUT_S
            ).close()
            said.clear()
        except (OSError, OverflowError) as e:
            said[:] = [first_line(e)]

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up has no time limit of its own
    thread.start()
    thread.join(TIMEOUT_S)
    reason = said[:]
    return f"{constants.ENDPOINT} cannot be reached ({reason[0]})" if reason else None


def _why_silent(repository: str, file: str, revision: str | None) -> str | None:
    """Why the Hub gives no answer at all about a file within the client's time; None if it gives any.

    The client itself would go on asking for minutes.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (HfHubHTTPError, FileMetadataError):  # an answer, which the client will get too and act on
        pass
    except Exception as e:  # of whichever HTTP library the client uses
        return f"{constants.ENDPOINT} does not answer ({first_line(e)})"
    return None


def explain(error: BaseException, repository: str) -> str:
    """An error of the Hub's client as a reason and a way out, in one line."""
    from huggingface_hub import constants, errors

    kinds: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in kinds:  # the client hides an HTTP error behind a missing file
        kinds.append(cause)
        cause = cause.__cause__
    status = next((r.status_code for e in kinds if (r := getattr(e, "response", None)) is not None), 0)
    said = " ".join(str(e) for e in kinds)

    def met(*types: type) -> bool:
        return any(isinstance(e, types) for e in kinds)

    if met(errors.LocalTokenNotFoundError):
        return f"there is no token: {LOG_IN}"
    if met(errors.GatedRepoError):
        return f"it is gated: ask for access at {constants.ENDPOINT}/{repository}, and {LOG_IN}"
    if status == 401 and "Invalid credentials" in said:
        return f"the Hub refuses the token: make a new one at {constants.ENDPOINT}/settings/tokens, then {LOG_IN}"
    if met(errors.RepositoryNotFoundError):
        return f"no such repository, or a private one that the token may not read: check its name, or {LOG_IN}"
    if met(errors.RevisionNotFoundError):
        return "the repository has no such revision: check its name"
    if any(
        isinstance(e, errors.EntryNotFoundError) and not isinstance(e, errors.LocalEntryNotFoundError) for e in kinds
    ):
        return "the repository has no such file: it holds no model folder of this package"
    if status in (401, 403):
        return f"the Hub does not allow it ({status}): take a token with that right, and {LOG_IN}"
    if status == 412:
        return "the branch has moved meanwhile: look at what is there, then publish again"
    if status >= 500:
        return f"the Hub answers {status}: try again later"
    if status:
        message = getattr(error, "server_message", None) or first_line(error)
        return f"the Hub answers {status} ({' '.join(str(message).split())[:200]})"
    return f"{first_line(kinds[-1])}: try again"


def _source(name: str) -> tuple[str, str | None, list[str]]:
    """Repository ("" if there is none), revision, and the files that hold the weights."""
    files = ["model.safetensors", "pytorch_model.bin"]
    if name.startswith(("hf-hub:", "hf_hub:")):
        repository, _, revision = name[len("hf-hub:") :].partition("@")
        return repository, revision or None, files
    cfg = None if ":" in name else timm.get_pretrained_cfg(name, allow_unregistered=True)
    if cfg is None or not cfg.hf_hub_id or cfg.file or cfg.state_dict:
        return "", None, []
    repository, _, revision = (cfg.hf_hub_id if "/" in cfg.hf_hub_id else f"timm/{name}").partition("@")
    return repository, revision or None, [cfg.hf_hub_filename, *files] if cfg.hf_hub_filename else files
