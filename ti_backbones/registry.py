"""timm names for transformation-isomorphic backbones, and where their weights are found.

`ti_<arch>` stands beside every architecture that timm knows. The model is timm's own, built by timm's
own entrypoint, with plain keys; what differs is its pretrained_cfg: no classifier unless asked for, and
weights that are looked up here instead of timm's.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import timm
from timm.models import DefaultCfg, PretrainedCfg, register_model
from torch import nn

from .published import (
    PUBLISHED,
    WEIGHTS_FILE,
    PublishedWeights,
    WeightsError,
    check_folder,
    find_weights,
    local_models,
    on_meta,
    published_tags,
    require_weights,
)

__all__ = ["PUBLISHED", "PublishedWeights", "WeightsError", "base_name", "find_weights", "register_aliases", "ti_cfg"]

PREFIX = "ti_"

# What a timm cfg says about timm's weights. The rest (input, normalisation, layer names) is the architecture's.
_ABOUT_WEIGHTS = (
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag"),
    *("label_offset", "label_names", "label_descriptions"),
    *("license", "description", "origin_url", "paper_name", "paper_ids", "notes"),
)
_SOURCES = ("url", "file", "state_dict", "hf_hub_id")

# what is listed as pretrained besides what is published: the model folders that are there at import
_LOCAL = local_models()

_logger = logging.getLogger(__name__)


# --- Names -----------------------------------------------------------------------------------------------------------


def register_aliases(module: str = "ti_backbones") -> list[str]:
    """Register `ti_<arch>` for every architecture that timm lists and that has no such alias yet.

    Call it again for architectures that were registered after `import ti_backbones`.

    Args:
        module: the module that timm shall file the names under; it gets their cfgs as `default_cfgs`.

    Returns:
        The names that are new.
    """
    cfgs = sys.modules[module].__dict__.setdefault("default_cfgs", {})
    new = []
    for base in timm.list_models(exclude_filters=f"{PREFIX}*"):
        name = PREFIX + base
        if not timm.is_model(name):
            new.append(name)
            cfgs[name] = _default_cfg(name)
            register_model(_entrypoint(name, module))
        elif name not in cfgs:
            _logger.warning("%s is timm's own name: the alias of %s is left out", name, base)
    return new


def base_name(name: str) -> str:
    """timm's own name of the architecture behind a `ti_*` name."""
    return name.removeprefix(PREFIX)


def ti_cfg(base: str, **changes: Any) -> PretrainedCfg:
    """timm's cfg of an architecture, less everything that belongs to timm's weights: no source, no classes.

    Args:
        base: timm's own name of the architecture.
        changes: fields to set besides.
    """
    blank = dict.fromkeys(_ABOUT_WEIGHTS) | {"architecture": base, "num_classes": 0, "custom_load": False}
    return dataclasses.replace(_timm_cfg(base), **(blank | changes))


def _timm_cfg(name: str) -> PretrainedCfg:
    """A registered cfg; timm's defaults if an architecture was registered without."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _default_cfg(name: str) -> DefaultCfg:
    """The registry's entry for a name: one cfg per published tag, or the untagged one without weights."""
    cfgs = {
        tag: ti_cfg(
            base_name(name),
            hf_hub_id=f"{entry.repo_id}@{entry.revision}",
            hf_hub_filename=WEIGHTS_FILE,
            license=entry.license,
        )
        for tag, entry in published_tags(name)
    }
    for full_name, folder in _LOCAL.items():
        if full_name.partition(".")[0] == name:
            cfgs.setdefault(full_name.partition(".")[2], ti_cfg(base_name(name), file=str(folder / WEIGHTS_FILE)))
    is_pretrained = bool(cfgs)
    cfgs = cfgs or {"": ti_cfg(base_name(name))}
    tags = deque(sorted(cfgs, key=bool))  # one without a tag first
    return DefaultCfg(tags=tags, cfgs=cfgs, is_pretrained=is_pretrained)


def _entrypoint(name: str, module: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, latent_transformer: bool | str | None = None, **kwargs) -> nn.Module:
        if latent_transformer:
            return _create_wrapped(name, latent_transformer, pretrained, **kwargs)
        return _create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = module
    entrypoint.__doc__ = (
        f"timm's {base_name(name)}; pretrained: as a transformation-isomorphic backbone. It returns the pooled"
        " latent unless num_classes is given; latent_transformer=True wraps it in a TIBackbone."
    )
    return entrypoint


# --- Models ----------------------------------------------------------------------------------------------------------


def _create(
    name: str,
    pretrained: bool,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """The plain timm model of a `ti_*` name; arguments as those of a timm entrypoint."""
    tag, changes = _read_cfg(name, pretrained_cfg)
    overlay = changes | (pretrained_cfg_overlay or {})
    own_source = any(overlay.get(key) for key in _SOURCES)
    if own_source or not (pretrained or tag):
        return _build(base_name(name), pretrained, overlay, **kwargs)
    folder = require_weights(name, tag, kwargs.get("cache_dir"))
    return _create_from_folder(name, folder, pretrained, pretrained_cfg_overlay=overlay, **kwargs)


def _build(base: str, pretrained: bool, overlay: dict[str, Any], **kwargs: Any) -> nn.Module:
    """Call timm's own entrypoint with the TI cfg."""
    # Some entrypoints (qwen3_vit, deepseek_vit) look a projector's width up by the tag of timm's weights. So the
    # tag is there while they build; afterwards the width is an argument, and a saved model needs no tag.
    cfg = ti_cfg(base, tag=_timm_cfg(base).tag)
    model = timm.model_entrypoint(base)(
        pretrained=pretrained, pretrained_cfg=cfg, pretrained_cfg_overlay=overlay, **kwargs
    )
    model.pretrained_cfg.pop("tag", None)
    width = getattr(getattr(model, "encoder", model), "out_features", None)
    if isinstance(width, int) and width:
        model._model_args = {"out_features": width}
    return model


def _read_cfg(name: str, cfg: str | dict[str, Any] | PretrainedCfg | None) -> tuple[str | None, dict[str, Any]]:
    """The tag that a pretrained_cfg argument asks for, and where the cfg differs from the registered one.

    timm's scripts hand the registered cfg back as a dict: that asks for nothing special.
    """
    if cfg is None or isinstance(cfg, str):
        return cfg or None, {}
    cfg = PretrainedCfg(**cfg) if isinstance(cfg, dict) else cfg
    tag = cfg.tag if cfg.tag and timm.is_model_pretrained(f"{name}.{cfg.tag}") else None
    registered = dataclasses.asdict(_timm_cfg(f"{name}.{tag}" if tag else name))
    given = dataclasses.asdict(cfg)
    return tag, {k: v for k, v in given.items() if v != registered[k] and k not in ("architecture", "tag")}


def _create_from_folder(name: str, folder: Path, pretrained: bool, **kwargs: Any) -> nn.Module:
    """A model from its folder, through timm's `local-dir:`, once it is certain that every weight will be there."""
    stored = check_folder(folder, base_name(name))
    model = timm.create_model(f"local-dir:{folder}", pretrained=pretrained, **kwargs)
    if pretrained and not kwargs.get("features_only") and model.num_classes != stored.num_classes:
        # timm loads these without strict, but only the new classifier may start from random values
        classifier = set(on_meta(folder, num_classes=model.num_classes).state_dict())
        unknown = set(model.state_dict()) - set(stored.state_dict()) - classifier
        if unknown:
            raise WeightsError(
                f"weights of {name} in '{folder}' lack '{min(unknown)}', which the arguments ask for:"
                " leave those arguments out, or use pretrained=False"
            )
    return model


def _create_wrapped(
    name: str, kind: Literal[True] | str, pretrained: bool, pretrained_cfg: Any = None, **kwargs: Any
) -> nn.Module:
    """A TIBackbone around the encoder; with pretrained=True its latent transformer is the stored one."""
    from .backbone import TIBackbone

    if kwargs.get("features_only"):
        raise ValueError(f"{name}: features_only has no pooled latent, so it takes no latent_transformer")
    if not pretrained:
        # by name, so that timm notes the arguments on the encoder too, and not only on what is around it
        encoder = timm.create_model(name, pretrained_cfg=pretrained_cfg, **kwargs)
        return TIBackbone(encoder, "o2" if kind is True else kind)
    folder = require_weights(name, _read_cfg(name, pretrained_cfg)[0], kwargs.get("cache_dir"))
    check_folder(folder, base_name(name))
    backbone = TIBackbone.from_pretrained(folder, **kwargs)
    stored = backbone.latent_transformer.config()["kind"]
    if kind not in (True, stored):
        raise WeightsError(
            f"weights of {name} in '{folder}' hold latent_transformer='{stored}', not '{kind}': use True to take it"
        )
    return backbone.train()  # as timm.create_model leaves its models
