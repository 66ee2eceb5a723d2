"""Transformation-isomorphic backbones for timm.

Importing this package registers `ti_<arch>` with timm for every architecture that timm knows.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

import timm as _timm

from .registry import register_aliases

if TYPE_CHECKING:
    from . import backbone, decoder, images, isomorphism, latent, o2, objective
    from .backbone import TIBackbone
    from .latent import LowRankAffine, O2Representation

__version__ = "0.1.0"

register_aliases()

__all__ = [
    "LowRankAffine",
    "O2Representation",
    "TIBackbone",
    "backbone",
    "decoder",
    "images",
    "isomorphism",
    "latent",
    "o2",
    "objective",
    "register_aliases",
]

_CLASSES = {"TIBackbone": "backbone", "LowRankAffine": "latent", "O2Representation": "latent"}


def __getattr__(name: str):
    """Public names are imported when first asked for: importing the package stays as cheap as importing timm."""
    if name in _CLASSES:
        return getattr(_import_module(f".{_CLASSES[name]}", __name__), name)
    if name in __all__:
        return _import_module(f".{name}", __name__)
    if name.startswith("ti_") and _timm.is_model(name):  # entrypoints, as timm's own modules have them
        return _timm.model_entrypoint(name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
