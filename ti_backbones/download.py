"""Weights from the Hugging Face Hub, or at once the reason why not.

Without a network the Hub's client retries for most of a minute, and then raises an error that names no model.
"""

from __future__ import annotations

import timm

from .errors import InputError, first_line

TIMEOUT_S = 5.0


def check_reachable(name: str) -> None:
    """Check that the weights of a timm model can be had: from the cache, or from the Hub.

    Args:
        name: a timm name or "hf-hub:org/name"; anything else passes.

    Raises:
        InputError: naming the model, if the Hub does not answer and no file of it is in the cache.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.utils import get_session

    repository, revision, files = _source(name)
    if not repository:
        return
    if any(isinstance(try_to_load_from_cache(repository, f, revision=revision), str) for f in files):
        return
    reason = "HF_HUB_OFFLINE is set"
    if not constants.is_offline_mode():
        try:
            get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
            return
        except Exception as e:  # of whichever HTTP library the client uses
            reason = first_line(e)
    raise InputError(
        f"weights of '{name}' are not in the cache, and {constants.ENDPOINT} cannot be reached ({reason}):"
        " connect, give the weights as a file, or start from random ones"
    )


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
