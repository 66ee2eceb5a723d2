"""`ti-backbones export`: the encoder of a model in other programs' formats, checked against PyTorch.

    onnx          ONNX, any batch size, checked with onnxruntime
    torchscript   torch.jit, checked with torch.jit.load
    torch-export  torch.export's .pt2, any batch size, checked with torch.export.load
    pth           the weights alone, a plain state dict that loads with weights_only=True

A `.pth` has timm's keys. timm and mmpretrain's TIMMBackbone take it as it is, with `num_classes=0,
checkpoint_path=FILE`; so does mmpretrain's and mmpose's own ResNet, whose keys are torchvision's as timm's are, with
`init_cfg=dict(type='Pretrained', checkpoint=FILE)`. For TIMMBackbone's `init_cfg` the module's name stands before each
key: `--prefix timm_model.` writes that.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .backbone import create_encoder, find_folder, read_config
from .checkpoint import replacing
from .errors import InputError, first_line
from .pretrain_setup import has_fixed_size
from .published import check_folder

Format = Literal["onnx", "pth", "torchscript", "torch-export"]
SUFFIX = {"onnx": ".onnx", "pth": ".pth", "torchscript": ".pt", "torch-export": ".pt2"}
TOLERANCE = 1e-3  # of the latent's largest number
ONE_FILE = 1_900_000_000  # bytes; a file of ONNX holds no more than 2 GiB


@dataclass
class ExportConfig:
    """Write the encoder of a model in another format: images (B, 3, S, S) in, latents (B, D) out."""

    model: str
    """model folder, published ti_* name, or repository org/name of the Hugging Face Hub"""
    to: Format
    """onnx, torchscript and torch-export hold the network; pth the weights alone, for mmengine and timm"""
    out: Path | None = None
    """file to write; the model's name in the current folder if not given"""
    size: int = 0
    """side of the images, pixels; 0: as the model was trained, else its configured size"""
    prefix: str = ""
    """put before every key of a .pth, such as 'timm_model.' for the init_cfg of mmpretrain's TIMMBackbone"""


@dataclass(frozen=True)
class Exported:
    """Attributes: path: of the file. shape: of the input, None without one. difference: largest |ours - PyTorch's|.

    latent: largest number of PyTorch's latent. mean, std: normalisation that the input needs.
    """

    path: Path
    shape: tuple[int, ...] | None
    difference: float
    latent: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def text(self) -> str:
        """What was written and how it was checked."""
        if self.shape is None:
            return f"wrote '{self.path}': weights alone, equal to the model's, and loaded with weights_only=True"
        shape = " x ".join(["B", *map(str, self.shape[1:])])
        return (
            f"wrote '{self.path}': images {shape}, normalised by mean {self.mean} and std {self.std};"
            f" max difference to PyTorch {self.difference:.1e} (latents up to {self.latent:.2g})"
        )


def export(config: ExportConfig) -> Exported:
    """Export, check, and only then write the file.

    Raises:
        InputError: for a model or option that cannot be used, or a format that cannot hold the model.
    """
    if config.size < 0:
        raise InputError(f"--size is {config.size}: it must be 0 or more")
    if config.prefix and config.to != "pth":
        raise InputError(f"--prefix is '{config.prefix}': it goes with --to pth only")
    for module in ("onnx", "onnxscript", "onnxruntime") if config.to == "onnx" else ():
        import_module(module)  # now, and not after the model is loaded
    folder = find_folder(config.model)
    stored = read_config(folder)
    training = stored.get("ti_backbones", {}).get("training", {})
    size = config.size or training.get("size") or stored["pretrained_cfg"]["input_size"][-1]
    check_folder(folder, stored["architecture"], "" if Path(config.model).is_dir() else config.model)
    try:
        encoder = _load(folder, stored["architecture"], size, config.to)
    except InputError as e:
        raise _wrong_size(config.model, size, e) from e
    name = (
        config.model.removeprefix("hf-hub:").partition("@")[0].rstrip("/").rpartition("/")[2] or folder.resolve().name
    )
    path = config.out or Path(name + SUFFIX[config.to])
    cfg = cast(dict[str, Any], encoder.pretrained_cfg)
    about = tuple(cfg["mean"]), tuple(cfg["std"])
    if config.to == "pth":
        _write_weights(encoder, config.prefix, path)
        return Exported(path, None, 0.0, 0.0, *about)
    images = torch.randn(2, cfg["input_size"][0], size, size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            encoder(images)
    except Exception as e:  # a model may fail in any way on a size it is not made for
        raise _wrong_size(config.model, size, e) from e
    write, read = WRITERS[config.to]
    with replacing(path) as [staged]:
        try:
            with _quiet():
                write(encoder, images, staged)
                run = read(staged)
                difference, latent = _difference(encoder, run, images)
        except InputError:
            raise
        except Exception as e:  # an exporter fails in any way on a model it cannot hold
            raise InputError(
                f"model '{config.model}' cannot be written as {config.to} ({first_line(e, 200)}): take another format"
            ) from e
        if not difference <= TOLERANCE * latent:
            raise InputError(
                f"model '{config.model}' as {config.to} differs from PyTorch by {difference:.1e} (latents up to"
                f" {latent:.2g}): not written; take another format"
            )
    return Exported(path, tuple(images.shape), difference, latent, *about)


def _wrong_size(model: str, size: int, error: Exception) -> InputError:
    return InputError(f"model '{model}' does not run at --size {size} ({first_line(error, 200)}): give another size")


def _load(folder: Path, architecture: str, size: int, to: Format) -> nn.Module:
    """The encoder in eval mode, its layers as the exporter takes them."""
    options: dict[str, Any] = {"img_size": size} if has_fixed_size(architecture) else {}
    if to == "torchscript":
        options["scriptable"] = True
    elif to != "pth":
        options["exportable"] = True
    return create_encoder(f"local-dir:{folder}", pretrained=True, **options).eval()


def _write_weights(encoder: nn.Module, prefix: str, path: Path) -> None:
    """A state dict of tensors, as torch.save writes it; read again and compared."""
    state = {prefix + k: v.detach().contiguous().clone() for k, v in encoder.state_dict().items()}
    with replacing(path) as [staged]:
        torch.save(state, staged)
        again = torch.load(staged, map_location="cpu", weights_only=True)
        if again.keys() != state.keys() or not all(torch.equal(again[k], state[k]) for k in state):
            raise InputError(f"'{path}' does not read back as it was written: free space or give another folder")


def _difference(encoder: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor) -> tuple[float, float]:
    """Largest difference over batches of one, two and three images, and the latent's largest number."""
    differences, largest = [], []
    for batch in (images[:1], images, images[[0, 1, 0]]):
        with torch.no_grad():
            expected = encoder(batch)
        differences.append((run(batch) - expected).abs().max().item())
        largest.append(expected.abs().max().item())
    return max(differences), max(largest)


def _write_onnx(encoder: nn.Module, images: Tensor, path: Path) -> None:
    if sum(v.numel() * v.element_size() for v in encoder.state_dict().values()) > ONE_FILE:
        raise InputError(f"'{path.stem}' is too large for one ONNX file: take --to torch-export")
    torch.onnx.export(
        encoder,
        (images,),
        path,
        input_names=["images"],
        output_names=["latent"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
        external_data=False,
    )


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def _write_torchscript(encoder: nn.Module, images: Tensor, path: Path) -> None:
    torch.jit.save(torch.jit.script(encoder), path)


def _read_torchscript(path: Path) -> Callable[[Tensor], Tensor]:
    module = torch.jit.load(path)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return module(x)

    return run


def _write_torch_export(encoder: nn.Module, images: Tensor, path: Path) -> None:
    program = torch.export.export(encoder, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)


def _read_torch_export(path: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(path).module()

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return module(x)

    return run


WRITERS: dict[str, tuple[Callable[[nn.Module, Tensor, Path], None], Callable[[Path], Callable[[Tensor], Tensor]]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "torchscript": (_write_torchscript, _read_torchscript),
    "torch-export": (_write_torch_export, _read_torch_export),
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk to people who work on exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
