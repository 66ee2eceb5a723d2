"""Hand images from anywhere: data specs, the one sample type, and images as tensors."""

from .images import ImageSet, LoadedImages, load_all, read
from .sample import Sample
from .spec import open_data

__all__ = ["ImageSet", "LoadedImages", "Sample", "load_all", "open_data", "read"]
