"""TIBackbone: a timm encoder together with its latent transformer.

The encoder stays a plain timm model with plain keys. The latent z is timm's own pooled feature (the
input of its classifier), of width `head_hidden_size`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any, cast

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from . import latent
from .checkpoint import write_files
from .download import check_reachable, explain, fetch, hub_id
from .errors import InputError, first_line
from .model_card import card
from .o2 import element

TRANSFORMER_FILE = "latent_transformer.safetensors"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
HALVED = 2**14  # tensors of so many elements or more are stored in float16, where half precision is asked for


def latent_width(encoder: Any) -> int:
    """D, the width of timm's pooled pre-classifier feature."""
    return getattr(encoder, "head_hidden_size", None) or encoder.num_features


def require_latent(encoder: nn.Module) -> None:
    """Check that timm gives an encoder a pooled feature, as it does wherever it gives a classifier.

    Raises:
        InputError: naming the architecture and one to take instead.
    """
    if not hasattr(encoder, "reset_classifier"):
        cfg = getattr(encoder, "pretrained_cfg", None) or {}
        name = cfg.get("architecture", type(encoder).__name__)
        other = name.removesuffix("_enc")
        instead = f"'{other}'" if other != name and timm.is_model(other) else "a model with a classifier"
        raise InputError(f"'{name}' has no pooled latent, since timm gives it no classifier: take {instead}")


def encode(encoder: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latent and last feature map of a timm model, in one pass.

    Args:
        encoder: any timm model that `require_latent` admits.
        x: (B, C, H, W) images.

    Returns:
        z: (B, D), the pooled latent; m: (B, C', h, w), the last feature map, whatever the model's own
        layout is.
    """
    if hasattr(encoder, "forward_intermediates"):
        features, maps = encoder.forward_intermediates(x, indices=1, output_fmt="NCHW")
        feature_map = maps[-1]
    else:
        features = encoder.forward_features(x)
        feature_map = features
    return encoder.forward_head(features, pre_logits=True), feature_map


class TIBackbone(nn.Module):
    """A timm encoder with a latent transformer: its latent moves as the image does.

    Args:
        model: a timm model, or the name of one (`ti_resnet50`, `resnet50`, `local-dir:...`).
        latent_transformer: "o2" (exact), "affine" (the paper's form), or a `LatentTransformer`.
        pretrained: load the encoder's pretrained weights; for a published `ti_*` name use
            `from_pretrained`, which brings the latent transformer too.
        latent_config: options of the latent transformer, such as `rank`.
        timm_kwargs: anything `timm.create_model` takes; `num_classes` is 0.

    Attributes:
        encoder: the plain timm model. Attributes that TIBackbone lacks are taken from it, so that
            timm's own methods (`forward_features`, `feature_info`, ...) work here too.
        latent_transformer: T, a module (z, g) -> T_g z.
        metadata: what goes under `ti_backbones` in config.json besides: objective, data, certificate.

    Raises:
        InputError: for an unknown model, or one that gives no pooled latent.
    """

    def __init__(
        self,
        model: nn.Module | str,
        latent_transformer: str | latent.LatentTransformer = "o2",
        pretrained: bool = False,
        latent_config: dict | None = None,
        **timm_kwargs,
    ):
        super().__init__()
        if isinstance(model, str):
            model = create_encoder(model, pretrained=pretrained, **timm_kwargs)
        elif timm_kwargs or pretrained:
            raise TypeError("pretrained and timm options apply to a model's name, not to a model")
        require_latent(model)
        self.encoder = model
        if isinstance(latent_transformer, str):
            latent_transformer = latent.make(latent_transformer, latent_width(model), **latent_config or {})
        self.latent_transformer = latent_transformer
        self.metadata: dict = {}

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "encoder":  # not set yet
                raise
            return getattr(self.encoder, name)

    @property
    def latent_dim(self) -> int:
        """D, the width of the latent."""
        return self.latent_transformer.dim

    def forward(self, x: Tensor) -> Tensor:
        """The latent z (B, D) of images x (B, C, H, W)."""
        return self.encode(x)[0]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (B, D) and last feature map (B, C', h, w) of images, in one pass."""
        return encode(self.encoder, x)

    def transform(self, z: Tensor, flip=False, angle=0.0) -> Tensor:
        """T_g z: the latent of the flipped, then rotated image.

        Args:
            z: (B, D).
            flip: bool or (B,) bools.
            angle: radians, counter-clockwise; float or (B,) floats.

        Returns:
            (B, D).
        """
        return self.latent_transformer(z, element(flip, angle, batch=len(z), device=z.device))

    def save_pretrained(self, folder: str | Path, half: bool = False) -> None:
        """Write a model folder that timm loads without this package.

        `model.safetensors` and `config.json` are timm's own (`local-dir:`, `hf-hub:`); the latent
        transformer is in `latent_transformer.safetensors`, its configuration under the one key
        `ti_backbones` of config.json. `README.md` is a card with what was measured.

        Args:
            folder: made if there is none.
            half: store the encoder's large tensors in float16, which nearly halves the file. Those of fewer than
                `HALVED` elements and the latent transformer stay float32: norms, biases and the first layers, whose
                errors all others pass on, and where a dead channel's weights can be too small for float16. What is
                loaded is float32.

        Raises:
            InputError: if it cannot be written, or a weight is beyond float16.
        """
        ours = {"latent_transformer": self.latent_transformer.config(), **self.metadata}
        files = encoder_files(self.encoder, ours, half)
        files[TRANSFORMER_FILE] = serialise(self.latent_transformer)
        files[CARD_FILE] = card(json.loads(files[CONFIG_FILE])["architecture"], ours).encode()
        write_files(Path(folder), files)

    @classmethod
    def from_pretrained(cls, name: str | Path, **timm_kwargs) -> TIBackbone:
        """Load a model folder, a published `ti_*` name, or a Hugging Face Hub repository.

        Args:
            name: a folder that `save_pretrained` wrote, a name such as "ti_resnet50", or "org/name".
            timm_kwargs: passed on to `timm.create_model`.

        Raises:
            InputError: if there is none, or it does not fit.
        """
        from .published import check_folder

        folder = find_folder(str(name))
        source = "" if Path(name).is_dir() else str(name)
        ours = read_config(folder).get("ti_backbones")
        if ours is None or not (folder / TRANSFORMER_FILE).is_file():
            raise InputError(
                f"'{name}' has no latent transformer ({TRANSFORMER_FILE}): load it as a plain timm model with"
                f" timm.create_model('local-dir:{folder}'), or wrap that in TIBackbone"
            )
        check_folder(folder, read_config(folder)["architecture"], source)  # timm itself is not strict about classifiers
        encoder = create_encoder(f"local-dir:{folder}", pretrained=True, **timm_kwargs)
        try:
            transformer = dict(ours["latent_transformer"])
            ti = cls(encoder, transformer.pop("kind"), latent_config=transformer)
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(
                f"'{folder / CONFIG_FILE}' does not describe the latent transformer ({first_line(e)}):"
                " save the model again"
            ) from e
        load_strictly(ti.latent_transformer, read_weights(folder / TRANSFORMER_FILE), folder / TRANSFORMER_FILE)
        ti.metadata = {k: v for k, v in ours.items() if k != "latent_transformer"}
        return ti.eval()


def encoder_files(encoder: nn.Module, ours: dict[str, Any], half: bool = False) -> dict[str, bytes]:
    """`model.safetensors` and `config.json` of an encoder, as timm loads them; `ours` goes under `ti_backbones`.

    For `half` see `TIBackbone.save_pretrained`.
    """
    cfg = {"architecture": base_architecture(encoder)}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / CONFIG_FILE
        save_config_for_hf(encoder, str(path), {"pretrained_cfg": cfg, "ti_backbones": ours})
        config = json.loads(path.read_text())
    args = config.get("model_args", {})
    args.pop("latent_transformer", None)  # ours, no argument of the plain model
    args.pop("num_classes", None)  # transformers refuses it here
    if half:
        config["dtype"] = "float32"  # what transformers loads, which would else take the file's
    return {WEIGHTS_FILE: serialise(encoder, half), CONFIG_FILE: json.dumps(config, indent=2).encode() + b"\n"}


def base_architecture(encoder: nn.Module) -> str:
    """timm's own name of the architecture, also for a model that was created as `ti_<arch>`."""
    name = cast(dict[str, Any], encoder.pretrained_cfg)["architecture"]
    return name.removeprefix("ti_") if timm.is_model(name.removeprefix("ti_")) else name


def create_encoder(name: str, pretrained: bool = False, **timm_kwargs) -> nn.Module:
    """A plain timm model without classifier.

    Raises:
        InputError: if timm does not know the name, has no such weights, or cannot build it.
    """
    folder = Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None
    if folder is not None:
        read_config(folder)
    elif ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise InputError(f"unknown model '{name}': {hint}")
    if pretrained:
        check_reachable(name)
    try:
        options: dict[str, Any] = {"num_classes": 0} | timm_kwargs
        return timm.create_model(name, pretrained=pretrained, **options)
    except InputError:
        raise
    except HfHubHTTPError as e:
        raise InputError(f"model '{name}' cannot be had: {explain(e, name.partition(':')[2])}") from e
    except (RuntimeError, TypeError, ValueError, OSError, SafetensorError) as e:
        raise InputError(f"model '{name}' cannot be made: {first_line(e)}") from e


def find_folder(name: str) -> Path:
    """The local folder of a model folder's path, a published `ti_*` name or a Hub repository.

    Raises:
        InputError: if there is none.
    """
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir():
        return folder
    from .registry import find_weights

    found = find_weights(name)
    if found is not None:
        return found
    on_hub = hub_id(name)
    if on_hub is not None:
        return fetch(name, *on_hub, (CONFIG_FILE, WEIGHTS_FILE, TRANSFORMER_FILE))[0].parent
    raise InputError(
        f"no model folder '{name}': give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, a published ti_* name,"
        " a repository org/name of the Hugging Face Hub, or set TI_BACKBONES_HUB to a folder that holds it"
    )


def folder_of(model: str) -> Path | None:
    """The local folder of a model folder's path, a `ti_*` name or org/name; None for a timm model, hf-hub:org/name too.

    Raises:
        InputError: if there is none, or it is a file.
    """
    if Path(model).is_file():
        raise InputError(f"model '{model}' is a file: give the folder that holds it and {CONFIG_FILE}")
    ours = Path(model).is_dir() or model.startswith("ti_") or (":" not in model and hub_id(model) is not None)
    return find_folder(model) if ours else None


def read_config(folder: Path) -> dict:
    """config.json of a model folder.

    Raises:
        InputError: if it is missing or no JSON object.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
        config["architecture"]
        return config
    except FileNotFoundError:
        raise InputError(f"no {CONFIG_FILE} in '{folder}': give a folder that save_pretrained wrote") from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"'{path}' is not a model configuration ({first_line(e)}): save the model again") from e


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a weights file: safetensors, or a PyTorch file read with weights_only.

    Raises:
        InputError: if it cannot be read, or holds no state dict.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training script stores its options
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise InputError(
            f"weights '{path}' are no tensors alone, or damaged; nothing in the file was run: give a safetensors file"
        ) from e
    except OSError as e:
        raise InputError(f"weights '{path}' cannot be read ({e.strerror or e}): give a file of weights") from e
    except Exception as e:  # torch raises many kinds for a damaged file
        raise InputError(f"weights '{path}' cannot be read ({first_line(e)}): fetch or save the file again") from e
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"weights '{path}' hold no state dict: give a file of named tensors")
    return {k.removeprefix("module."): v for k, v in state.items()}


def weights_of(path: str | Path) -> Path | None:
    """The weights file that a path names: itself, or that of a model folder; None if there is none."""
    path = Path(path).expanduser()
    path = path / WEIGHTS_FILE if path.is_dir() else path
    return path if path.is_file() else None


def load_strictly(module: nn.Module, state: dict[str, Tensor], source) -> None:
    """Load every key, or say in one line which do not fit and load none.

    Raises:
        InputError: naming the first key that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state]
    extra = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or shapes:
        first = (
            f"'{missing[0]}' is missing"
            if missing
            else f"'{extra[0]}' is not in the model"
            if extra
            else f"'{shapes[0]}' is {tuple(state[shapes[0]].shape)}, not {tuple(own[shapes[0]].shape)}"
        )
        raise InputError(
            f"weights '{source}' are of another architecture than {type(module).__name__}: {first}"
            f" ({len(missing)} missing, {len(extra)} unexpected, {len(shapes)} of another shape)"
        )
    module.load_state_dict(state, strict=True)


def serialise(module: nn.Module, half: bool = False) -> bytes:
    """A module's state as the bytes of a safetensors file; for `half` see `TIBackbone.save_pretrained`."""
    # copies: safetensors refuses weights that share memory, as CoaT ties some of its own
    state = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    for key, value in state.items() if half else ():
        state[key] = halved(value)
        if state[key] is not value and not state[key].isfinite().all():
            raise InputError(f"weight '{key}' is beyond float16: save with half=False")
    return save(state)


def halved(value: Tensor) -> Tensor:
    """A tensor as it is stored in half precision: float16 if it is a large float32 one, see `HALVED`, else itself."""
    return value.half() if value.numel() >= HALVED and value.dtype == torch.float32 else value
