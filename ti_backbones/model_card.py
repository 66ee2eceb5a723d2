"""Model cards, generated from what is recorded with a model and what lies measured in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

CODE_LICENSE = "Apache-2.0"
HERE = "FOLDER"  # what a card calls the folder that it lies in

CERTIFICATE = {
    "gain": "1 − E‖T_g z(x) − z(g·x)‖² / E‖z(x) − z(g·x)‖²: 1 is exact, 0 is as good as doing nothing",
    "moving_share": "E_x Var_g z(g·x) / Var z: an invariant latent has 0",
    "effective_rank": "exp of the entropy of the latent covariance's spectrum",
    "ordinary_error": "E‖T_g z(x) − z(g·x)‖² / Var z",
    "worst_angle_ratio": "largest error over angles / mean error",
    "secondary_error": "E‖T_h T_g z(x) − z(h·g·x)‖² / Var z",
    "law_error": "largest ‖T_h T_g z − T_hg z‖ / ‖z − μ‖",
    "inverse_error": "largest ‖T_g⁻¹ T_g z − z‖ / ‖z − μ‖",
}
POSE = {
    "MPJPE": ("root", "mean distance of the joints, wrists aligned, mm"),
    "PA-MPJPE": ("proper", "the same after Procrustes alignment by rotation, scale and translation, mm"),
    "PA-MPJPE (official)": ("official", "the same as the sets' scripts do it, which may reflect, mm"),
}
SYNTHETIC = "The images are synthetic renders: these numbers say nothing about real hands."


@dataclass(frozen=True)
class Recipe:
    """How a model was made.

    Attributes:
        license: of the weights, as the Hub spells it, such as "apache-2.0" or "cc-by-nc-4.0".
        commands: what was run, one line each.
        data: what it was trained on, in words, with the licences. test_data: what it is certified on, in words.
        photos: what the real photographs are, in words, with the licence.
        time: how long it took, and on what. notes: anything else.
    """

    license: str
    commands: list[str] = field(default_factory=list)
    data: str = ""
    test_data: str = ""
    photos: str = ""
    time: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Measured:
    """What a card says besides what config.json records.

    Attributes:
        name: "ti_<arch>" or "ti_<arch>.<tag>". source: "hf-hub:org/name", or the folder.
        license: of the weights; "" if not stated.
        recipe: how it was made.
        certificate: certificate.json. photos: the same on real photographs. comparison: report.json of `compare`.
        speed: rows of the benchmark of inference. last: the last record of the training's log.
        results: evaluation folder -> its results.json. files: what the folder holds.
    """

    name: str = ""
    source: str = f"local-dir:{HERE}"
    license: str = ""
    recipe: Recipe | None = None
    certificate: dict[str, Any] = field(default_factory=dict)
    photos: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    speed: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def card(architecture: str, ours: dict[str, Any], measured: Measured | None = None) -> str:
    """The README.md of a model folder.

    Args:
        architecture: timm's name of the encoder.
        ours: what config.json keeps under `ti_backbones`: the latent transformer, and for a trained model
            its training and its certificate.
        measured: what else is known.

    Returns:
        Markdown with the Hub's metadata on top.
    """
    measured = measured or Measured()
    name = measured.name or f"ti_{architecture}"
    transformer = ours["latent_transformer"]
    certificate = {**ours.get("certificate", {}), **measured.certificate}
    parts = [
        f"---\n{_metadata(name, certificate, measured)}\n---",
        f"# {name}",
        f"A timm `{architecture}` encoder (`model.safetensors`) with a latent transformer of kind"
        f" `{transformer['kind']}` and rank {transformer['rank']} (`latent_transformer.safetensors`) that moves its"
        " pooled latent as a horizontal flip or an in-plane rotation moves the image: T_g z(x) ≈ z(g·x).",
        *_views(measured.files),
        *_usage(measured.source),
        *_certificate(certificate, measured.files),
        *_photos(measured),
        *_comparison(measured),
        *_pose(measured),
        *_speed(measured.speed),
        *_making(ours, measured),
        "## Intended use",
        "Features for hand pose regression, and for other regression problems on which flips and in-plane rotations"
        " act. Not for recognising or identifying anybody, and not for decisions about people.",
        "## Limits",
        "The certificate speaks of the views and images it was measured on. A high gain alone proves little: what"
        " moves may be the background. Judge the backbone by its pose error on your own data.",
        "## Licence",
        f"Code of ti-backbones: {CODE_LICENSE}. Weights in this folder: {measured.license or 'not stated'}.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(name: str, certificate: dict[str, Any], measured: Measured) -> str:
    """The YAML that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    if certificate.get("gain") is not None:
        about = "image-feature-extraction", _kind(certificate.get("data", "")), certificate.get("data") or "unrecorded"
        results += [EvalResult(*about, key, certificate[key]) for key in ("gain", "moving_share") if key in certificate]
    for result in measured.results.values():
        about = "keypoint-detection", _kind(result["data"]), result["data"]
        for metric, (key, _) in POSE.items():
            results.append(EvalResult(*about, metric.lower(), result["mpjpe"][key], metric_name=f"{metric} [mm]"))
    data = ModelCardData(
        library_name="timm",
        license=measured.license or None,
        pipeline_tag="keypoint-detection" if "pose_head.safetensors" in measured.files else "image-feature-extraction",
        tags=["timm", "ti-backbones", "hand-pose", "equivariance"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _kind(spec: str) -> str:
    return next((k for k in ("embedded", "dexycb", "interhand", "freihand", "ho3d") if k in spec), "other")


def _usage(source: str) -> list[str]:
    """The same weights in five hosts."""
    plain = source.removeprefix("hf-hub:").removeprefix("local-dir:")
    hosts = {
        "timm": f"import timm\nencoder = timm.create_model('{source}', pretrained=True)  # a plain timm model",
        "ti-backbones": "from ti_backbones import TIBackbone\n"
        f"ti = TIBackbone.from_pretrained('{plain}')  # with its latent transformer\n"
        "moved = ti.transform(ti(images), flip=True, angle=0.5)  # the latent of the flipped, then rotated images",
        "transformers": f"from transformers import AutoModel\nmodel = AutoModel.from_pretrained('{plain}')",
        "segmentation_models_pytorch": "import segmentation_models_pytorch as smp\n"
        f"model = smp.Unet('tu-{source}', encoder_weights=True)",
        "mmpretrain": f"backbone = dict(type='TIMMBackbone', model_name='{source}', pretrained=True)",
    }
    lines = ["## Use"]
    for host, code in hosts.items():
        lines += [f"{host}:", f"```python\n{code}\n```"]
    other = (
        "mmpose, ONNX, TorchScript: `ti-backbones export {} --to pth|onnx|torchscript|torch-export` writes the file."
    )
    return [*lines, other.format(plain)]


def _views(files: tuple[str, ...]) -> list[str]:
    """What the latent holds, as a picture."""
    said = "Held-out images, and what the decoder that was trained along draws from their latents:"
    return [said, "![x, g·x, drawn from z(x), drawn from T_g z(x)](views.png)"] if "views.png" in files else []


def _certificate(certificate: dict[str, Any], files: tuple[str, ...]) -> list[str]:
    if certificate.get("gain") is None:
        return [
            "## Certificate",
            "None: this model was not certified. `ti-backbones inspect FOLDER --data SPEC` measures it.",
        ]
    data = certificate.get("data") or "unrecorded data"
    known = [key for key in CERTIFICATE if certificate.get(key) is not None]
    rows = [f"| {key.replace('_', ' ')} | {certificate[key]:.3g} | {CERTIFICATE[key]} |" for key in known]
    frame = f", framed as `{certificate['frame']}`" if "frame" in certificate else ""
    said = f"Measured on {certificate.get('images', 'some')} held-out images of `{data}`{frame}, over angles and flips."
    lines = ["## Certificate", said, "\n".join(["| metric | value | definition |", "|---|---|---|", *rows])]
    lines += ["![error by angle and flip](certificate.png)"] if "certificate.png" in files else []
    return lines + ([SYNTHETIC] if _synthetic(data) else [])


def _synthetic(data: str) -> bool:
    return "embedded" in data or "synthetic" in data


def _photos(measured: Measured) -> list[str]:
    """What of the certificate holds on real photographs."""
    of = measured.photos
    if not of:
        return []
    what = measured.recipe.photos if measured.recipe and measured.recipe.photos else of.get("data") or "unrecorded"
    return [
        "## Real photographs",
        f"The same measurement on {of['images']} real photographs ({what}): gain {of['gain']:.2f}, moving share"
        f" {of['moving_share']:.2f}, worst angle {of['worst_angle_ratio']:.2f} times the mean.",
    ]


def _comparison(measured: Measured) -> list[str]:
    """What the model is worth to pose, beside its rivals."""
    if not measured.comparison:
        return []
    from .compare.report import Report

    table = Report(**measured.comparison).table(markdown=True)
    figures = {"bars.png": "MPJPE and PA-MPJPE by pretraining", "curves.png": "validation error by epoch"}
    there = [f"![{said}](comparison/{f})" for f, said in figures.items() if f"comparison/{f}" in measured.files]
    synthetic = [SYNTHETIC] if _synthetic(measured.comparison["title"]) else []
    return ["## Hand pose from few labels", table, *there, *synthetic]


def _speed(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    said = "A `ti_*` model is the plain timm model: seconds of paired runs of the two, as ratios."
    lines = ["| what | against | ratio | of pairs |", "|---|---|---|---|"]
    lines += [
        f"| {r['what']} | {r['against']} | {r['ratio']:.3f} | {r['spread'][0]:.3f} to {r['spread'][1]:.3f} |"
        for r in rows
    ]
    return ["## Speed", said, "\n".join(lines)]


def _pose(measured: Measured) -> list[str]:
    """Pose errors, a table for each evaluated set."""
    lines = ["## Hand pose"] if measured.results else []
    for folder, result in measured.results.items():
        rows = [f"| {m} | {result['mpjpe'][key]:.2f} | {what} |" for m, (key, what) in POSE.items()]
        for key, name in (("root", "AUC 0-50 mm"), ("proper", "AUC 0-50 mm after Procrustes")):
            rows.append(f"| {name} | {result['auc'][key]['0-50']:.3f} | area under the PCK curve |")
        rows += [f"| {name} | {value:.2f} | as that set's script |" for name, value in result["protocols"].items()]
        left_out = "".join(f", {n} {reason} left out" for reason, n in result.get("left_out", {}).items())
        lines.append(f"On {result['hands']} hands of `{result['data']}`, {result['joints']} joints{left_out}:")
        lines.append("\n".join(["| metric | value | definition |", "|---|---|---|", *rows]))
        lines += [f"![PCK curves]({folder}/pck.png)"] if f"{folder}/pck.png" in measured.files else []
        lines += [SYNTHETIC] if _synthetic(result["data"]) else []
    return lines


def _making(ours: dict[str, Any], measured: Measured) -> list[str]:
    lines, recipe = [], measured.recipe
    if recipe is not None:
        lines += ["## Recipe"]
        lines += ["```bash\n" + "\n".join(recipe.commands) + "\n```"] if recipe.commands else []
        for label, text in (("Data", recipe.data), ("Time", recipe.time), ("Notes", recipe.notes)):
            lines += [f"{label}: {text}"] if text else []
    if ours.get("training"):
        lines += ["## Training", "```json\n" + json.dumps(ours["training"], indent=2) + "\n```"]
    if measured.last:
        last = {k: v for k, v in measured.last.items() if isinstance(v, float | int)}
        terms = ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v:.3g}" for k, v in last.items())
        lines += [f"The last step in its log (`log.jsonl`): {terms}."]
    return lines
