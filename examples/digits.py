"""Beyond hands: which way is a handwritten digit turned, and is it mirrored?

scikit-learn's digits (1,797 images of 8 x 8 pixels; UCI Optical Recognition of Handwritten Digits, CC BY 4.0), each
turned by a uniformly random element g of O(2). Asked for are the digit's own axes, g·right and g·down: points that
move with the image, as a hand's joints do, so that the heads for hands serve. Few images have labels, many have none.

python examples/digits.py > digits.md    (a quarter of an hour on one CPU core; with --quick, half a minute)
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ti_backbones import TIBackbone, o2
from ti_backbones.data.order import uniforms
from ti_backbones.decoder import PooledDecoder
from ti_backbones.images import view
from ti_backbones.isomorphism import certify_backbone, normalisation, represent
from ti_backbones.objective import PRESETS, UNIFORMS, TIObjective
from ti_backbones.pose.heads import EquivariantPoseHead, MLPHead

try:
    from sklearn.datasets import load_digits
except ImportError:
    raise SystemExit("this example needs scikit-learn: pip install 'ti-backbones[examples]'") from None

ENCODER = {"model": "convnext_atto", "depths": (1, 1, 2, 1), "dims": (32, 64, 128, 256)}  # a narrow one, for a CPU
SIZE, BATCH = 32, 64  # pixels; encoder views a step
FULL = {
    "labels": (10, 30, 100, 300),
    "seeds": 3,
    "views": 16_000,
    "labelled_views": 4_000,
    "steps": 300,
    "images": 1200,
}
QUICK = {"labels": (10, 30), "seeds": 2, "views": 256, "labelled_views": 64, "steps": 4, "images": 40}
MEASURES = {"median": "median error, degrees", "mean": "mean error, degrees", "side": "mirrored or not, % right"}
PRETRAINED = {"autoencoder": "autoencoder", "TI": "o2"}  # presets
NOTES = """mean ± standard deviation over {seeds} seeds, which draw the labelled digits, the weights and the
turns anew (`python examples/digits.py`, on one CPU core). The digits are split at random into 1,197 for training, 200
for validation and 400 for test, each judged in four turns. An encoder sees {views:,} views without labels in its
pretraining, is frozen, and then sees {labelled_views:,} turned views of the labelled digits; with a star, each labelled
digit once. From scratch, encoder and head see as many views as all that, of labelled digits. The learning rate was
chosen on the validation split, of 1.5e-3, 3e-3 and 6e-3, for all alike, with earlier forms of the equivariant
head and of TI's pretraining.

Gain of T_g on the validation digits; for the autoencoder, that of the representation fitted to its latent afterwards:
"""
ONCE = " *"  # marks the readouts that have each labelled image encoded once


def digits(limit: int) -> dict[str, Tensor]:
    """Splits of (N, 3, 32, 32) uint8 images, drawn at random once, since the writers are not known."""
    x = nn.functional.pad(torch.tensor(load_digits(return_X_y=True)[0]).view(-1, 1, 8, 8).float() / 16, (1, 1, 1, 1))
    x = nn.functional.interpolate(x, (SIZE, SIZE), mode="bicubic").clamp(0, 1).mul(255).round().byte()
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))].expand(-1, 3, -1, -1)
    parts = zip(("train", "validation", "test"), x.split([1197, 200, 400]), strict=True)
    return {name: part[:limit] for name, part in parts}


def turned(encoder: nn.Module, images: Tensor, g: o2.Element) -> Tensor:
    """Views g·x of uint8 images, as the encoder wants them."""
    mean, std = normalisation(encoder)
    return view(g, (images.float() / 255 - mean) / std)


@torch.no_grad()
def encode(ti: nn.Module, images: Tensor, g: o2.Element) -> Tensor:
    """Latents z(g·x), (B, D)."""
    return torch.cat([ti(x) for x in turned(ti, images, g).split(256)])


def axes(outputs: Tensor) -> Tensor:
    """Where a head says that the digit's right and down point: (x, y) of its first two "joints", (B, 2, 2)."""
    return outputs.unflatten(1, (-1, 3))[:, :2, :2]


def true_axes(g: o2.Element) -> Tensor:
    """Where they point: the columns of M_g, as rows (B, 2, 2)."""
    return o2.matrix(g).mT.float()


def train(model: nn.Module, loss, steps: int, what: str) -> None:
    """Minimise loss(step); the model is in eval mode afterwards."""
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps, pct_start=0.1, cycle_momentum=False)
    model.train()
    for step in tqdm(range(steps), what, unit="step", leave=False, delay=2):
        optimiser.zero_grad()
        loss(step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    model.eval()


def pretrain(preset: str, images: Tensor, views: int, seed: int) -> TIBackbone:
    """Pretrain on images without labels: two random views of each image in a step."""
    torch.manual_seed(seed)
    ti = TIBackbone(**ENCODER)
    mean, std = (x.flatten().tolist() for x in normalisation(ti.encoder))
    objective = TIObjective(ti, PooledDecoder(ti.latent_dim, SIZE), PRESETS[preset], mean, std)
    steps = views // BATCH

    def loss(step: int) -> Tensor:
        objective.prepare(step, steps, lambda count: images[:count])
        i = torch.randint(len(images), (BATCH // 2,))
        return objective(images[i].float() / 255, uniforms(seed, step, BATCH // 2, UNIFORMS))["loss"]

    train(objective, loss, steps, f"pretraining, {preset}")
    if not objective.objective.trains_transformer:  # it gets the representation that fits its latent best, afterwards
        ti.latent_transformer = represent(ti.encoder, images[:400], "disc")
    return ti


def from_scratch(images: Tensor, views: int) -> nn.Sequential:
    """Encoder and head trained together, each step on freshly turned images."""
    ti = TIBackbone(**ENCODER)
    model = nn.Sequential(ti.encoder, MLPHead(ti.latent_dim, 6))

    def loss(step: int) -> Tensor:
        g = o2.sample(BATCH)
        x = turned(ti.encoder, images[torch.randint(len(images), (BATCH,))], g)
        return nn.functional.mse_loss(axes(model(x)), true_axes(g))

    train(model, loss, views // BATCH, "from scratch")
    return model


def read_out(head, z: Tensor, g: o2.Element, steps: int, transformer=None) -> nn.Module:
    """Fit a head to latents of known g; with a latent transformer, to T_h z and h∘g of a new h each time."""
    head.calibrate(z)

    def loss(step: int) -> Tensor:
        i = torch.randint(len(z), (BATCH,))
        latents, labels = z[i], g[i]
        if transformer is not None:
            h = o2.sample(BATCH)
            latents, labels = transformer(latents, h).detach(), h @ labels
        return nn.functional.mse_loss(axes(head(latents)), true_axes(labels))

    train(head, loss, steps, "readout")
    return head


def readouts(ti: TIBackbone, z: Tensor, g: o2.Element, n: int, steps: int) -> dict[str, nn.Module]:
    """Heads on the frozen latents z of all views of n labelled images, and on the first n: one view of each."""
    transformer, once = ti.latent_transformer, (z[:n], g[:n], steps)
    return {
        "MLP": read_out(MLPHead(ti.latent_dim, 6), z, g, steps),
        "equivariant head": read_out(EquivariantPoseHead(transformer, articulates=False), z, g, steps),
        "MLP" + ONCE: read_out(MLPHead(ti.latent_dim, 6), *once),
        "MLP, turned latents" + ONCE: read_out(MLPHead(ti.latent_dim, 6), *once, transformer),
        "equivariant head" + ONCE: read_out(EquivariantPoseHead(transformer, articulates=False), *once),
    }


@torch.no_grad()
def errors(model: nn.Module, x: Tensor, g: o2.Element) -> dict[str, float]:
    """Of the predicted down, in degrees; and how often the axes' handedness tells rightly whether g mirrors, in %."""
    predicted, true = axes(model(x)), true_axes(g)
    angle, wanted = (torch.atan2(a[:, 1, 0], a[:, 1, 1]) for a in (predicted, true))
    off = (torch.remainder(angle - wanted + math.pi, o2.TAU) - math.pi).abs().rad2deg()
    side = 100 * ((torch.linalg.det(predicted) < 0) == g.flip).float().mean()
    return {"median": off.median().item(), "mean": off.mean().item(), "side": side.item()}


def run(plan: dict, split: str) -> tuple[dict, dict]:
    """Gains, pretraining -> one a seed; and scores, method -> labels -> errors, one a seed."""
    data = digits(plan["images"])
    images, judged = data["train"], data[split].repeat(4, 1, 1, 1)
    g_judged = o2.sample(len(judged), torch.Generator().manual_seed(0))
    gains, scores = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for seed in tqdm(range(plan["seeds"]), "seeds", unit="seed"):
        encoders = {name: pretrain(preset, images, plan["views"], seed) for name, preset in PRETRAINED.items()}
        z_judged = {name: encode(ti, judged, g_judged) for name, ti in encoders.items()}
        for name, ti in encoders.items():
            gains[name].append(certify_backbone(ti, data["validation"]).gain)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        for n in plan["labels"]:
            labelled = images[order[:n]]
            model = from_scratch(labelled, plan["views"] + plan["labelled_views"])
            scores["from scratch"][n].append(errors(model[1], encode(model[0], judged, g_judged), g_judged))
            labelled = labelled.repeat(plan["labelled_views"] // n, 1, 1, 1)
            g = o2.sample(len(labelled))
            for name, ti in encoders.items():
                for what, head in readouts(ti, encode(ti, labelled, g), g, n, plan["steps"]).items():
                    scores[f"{name}: {what}"][n].append(errors(head, z_judged[name], g_judged))
    return gains, scores


def report(gains: dict, scores: dict, plan: dict, split: str) -> str:
    """Markdown: a table for each measure, mean and standard deviation over seeds."""
    lines = [f"# Which way is a digit turned? From few labels\n\nJudged on the {split} split; {NOTES.format(**plan)}"]
    lines += [f"- {name}: {mean_sd(values, 2)}" for name, values in gains.items()]
    for measure, title in MEASURES.items():
        table = [[title, *(f"{n} labels" for n in plan["labels"])], ["---"] * (1 + len(plan["labels"]))]
        for method, row in scores.items():
            table.append([method, *(mean_sd([e[measure] for e in row[n]]) for n in plan["labels"])])
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in table)]
    return "\n".join(lines)


def mean_sd(values: list[float], digits: int = 1) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def draw(scores: dict, path: Path) -> None:
    """Median error against labels, to an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = {"from scratch": "grey", **dict(zip(PRETRAINED, ("tab:orange", "tab:blue"), strict=True))}
    styles = {"": "-", "MLP": ":", "MLP, turned latents": "--", "equivariant head": "-"}
    for method, row in scores.items():
        pretraining, _, readout = method.removesuffix(ONCE).partition(": ")
        values = [[e["median"] for e in errors] for errors in row.values()]
        centre, spread = [statistics.mean(v) for v in values], [statistics.stdev(v) for v in values]
        look = {"color": colours[pretraining], "linestyle": styles[readout], "label": method, "capsize": 3}
        panels[int(ONCE in method)].errorbar(list(row), centre, spread, **look)
    titles = ("many views of each labelled image", "each labelled image encoded once")
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xscale="log", xlabel="labelled images", ylim=(0, None))
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    panels[0].set_ylabel(MEASURES["median"])
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: it runs, and learns nothing")
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="what to judge on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw median error against labels here")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    gains, scores = run(plan, options.split)
    print(report(gains, scores, plan, options.split))
    if options.json:
        text = json.dumps({"split": options.split, "plan": plan, "encoder": ENCODER, "gains": gains, "scores": scores})
        options.json.write_text(text + "\n")
    if options.figure:
        draw(scores, options.figure)


if __name__ == "__main__":
    main()
