"""Model cards, generated from what is recorded with a model."""

from __future__ import annotations

import json


def card(architecture: str, ours: dict) -> str:
    """The README.md of a model folder.

    Args:
        architecture: timm's name of the encoder.
        ours: what config.json keeps under `ti_backbones`: the latent transformer, and for a trained model
            its training and its certificate.

    Returns:
        Markdown with the Hub's metadata on top.
    """
    transformer, certificate = ours["latent_transformer"], ours.get("certificate")
    lines = [
        *("---", "library_name: timm", "pipeline_tag: image-feature-extraction"),
        *("tags:", "- timm", "- ti-backbones", "- hand-pose", "---", ""),
        *(f"# ti_{architecture}", ""),
        f"A timm `{architecture}` encoder (`model.safetensors`) with a latent transformer of kind"
        f" `{transformer['kind']}` and rank {transformer['rank']} (`latent_transformer.safetensors`), that moves its"
        " pooled latent as a flip or a rotation moves the image.",
        "",
        *("```python", "import timm, ti_backbones", 'encoder = timm.create_model("local-dir:FOLDER", pretrained=True)'),
        *('ti = ti_backbones.TIBackbone.from_pretrained("FOLDER")  # with its latent transformer', "```", ""),
        *("## Certificate", ""),
    ]
    if certificate:
        data = certificate.get("data", "unrecorded data")
        lines += [f"Measured on held-out images: {certificate.get('images', 'some')} of `{data}`.", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {k.replace('_', ' ')} | {v:.3g} |" for k, v in certificate.items() if isinstance(v, float)]
        if "embedded" in data:
            lines += ["", "The images are synthetic renders: the numbers say nothing about real hands."]
    else:
        lines += ["None: this model was not certified. `ti-backbones inspect FOLDER --data SPEC` measures it."]
    if ours.get("training"):
        lines += ["", "## Training", "", "```json", json.dumps(ours["training"], indent=2), "```"]
    return "\n".join(lines) + "\n"
