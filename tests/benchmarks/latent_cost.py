"""What a latent transformer costs beside the encoder: T_g on a batch of latents against a resnet50 forward.

    python tests/benchmarks/latent_cost.py

Pairs of runs in one process; prints the median ratio of each pair. Rank 256, batch 64, 224 px.
"""

import statistics
import time

import torch

from ti_backbones import TIBackbone, o2


def seconds(run) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@torch.no_grad()
def main(batch: int = 64, pairs: int = 5) -> None:
    """Print the ratio with cached P (eval), and with P computed anew (training)."""
    ti = TIBackbone("resnet50", latent_config={"rank": 256}).eval()
    images = torch.rand(batch, 3, 224, 224)
    z, g = ti(images), o2.sample(batch)
    for name, training in (("eval, P cached", False), ("training, P computed", True)):
        ti.latent_transformer.train(training)
        ti.latent_transformer(z, g)
        ratios = [
            seconds(lambda: ti.latent_transformer(z, g)) / seconds(lambda: ti.encoder(images)) for _ in range(pairs)
        ]
        print(f"{name}: {100 * statistics.median(ratios):.2f} % of a resnet50 forward ({batch} images, 224 px)")


if __name__ == "__main__":
    main()
