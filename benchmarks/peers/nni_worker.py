"""Steps of NNI 3.0's ProxylessNAS on request, in NNI's own environment; `nni_steps.py` starts it.

It reads one JSON object a line from standard input and answers each by one line on what was standard output: first, a
greeting without having been asked. The steps are NNI's objects in NNI's order (`DartsLightningModule.training_step`)
without a Lightning trainer around them, which only makes them faster.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import nni  # type: ignore[import-not-found]
import torch
from nni.nas.evaluator.pytorch import Classification  # type: ignore[import-not-found]
from nni.nas.hub.pytorch import ProxylessNAS  # type: ignore[import-not-found]
from nni.nas.oneshot.pytorch.supermodule.proxyless import ProxylessMixedLayer  # type: ignore[import-not-found]
from nni.nas.strategy import Proxyless  # type: ignore[import-not-found]
from torch.nn.functional import cross_entropy

SKIP = "skip"
WIDTHS = (32, 16, 24, 40, 80, 96, 192, 320, 1280)  # of the paper; the hub has 32 for the first searched stage


class Steps:
    """The supernet of NNI's hub with its two optimizers.

    Args:
        batch, size: of the random images.
        channels_last: lay weights and images out as NNI's users may, but NNI does not.
    """

    def __init__(self, batch: int, size: int, classes: int, channels_last: bool) -> None:
        strategy = Proxyless()
        self.model = strategy.mutate_model(ProxylessNAS(num_labels=classes, base_widths=WIDTHS))
        self.module = strategy.configure_oneshot_module(Classification(num_classes=classes).module)
        self.module.set_model(self.model)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=layout).train()
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, size, size, generator=generator).to(memory_format=layout)
        self.labels = torch.randint(classes, (batch,), generator=generator)
        alphas = self.module.arch_parameters()
        own = set(alphas)
        self.weights = [p for p in self.model.parameters() if p not in own]
        self.weight_optimizer = torch.optim.SGD(self.weights, 0.025, momentum=0.9, nesterov=True, weight_decay=4e-5)
        self.alpha_optimizer = self.module.configure_architecture_optimizers()
        self.places = list(self._places())

    def _places(self) -> Iterator[tuple[Any, Any]]:
        """(choice between identity and block, or None; choice of the block) in the order of the network."""
        for part in self.model.blocks:
            for block in getattr(part, "blocks", [part]):
                if isinstance(block, ProxylessMixedLayer):
                    yield (None, block) if len(block.names) == 6 else (block, block["1"])

    def choose(self, names: Sequence[str]) -> None:
        """Have this path sampled. Where a block is skipped, one of its candidates is sampled nevertheless."""
        for (gate, block), name in zip(self.places, names, strict=True):
            if gate is not None:
                gate.resample({gate.label: "0" if name == SKIP else "1"})
            block.resample({} if name == SKIP else {block.label: name})

    def weight_step(self) -> None:
        loss = cross_entropy(self.model(self.images), self.labels, label_smoothing=0.1)
        self.weight_optimizer.zero_grad()
        loss.backward()
        self.weight_optimizer.step()

    def architecture_step(self) -> None:
        self.alpha_optimizer.zero_grad()
        cross_entropy(self.model(self.images), self.labels).backward()
        self.alpha_optimizer.step()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not come between
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings.pop("threads"))
    torch.manual_seed(0)
    steps = Steps(**settings)
    greeting = {
        "nni": nni.__version__,
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in steps.weights),
        "candidates": [[*block.names, *([SKIP] if gate is not None else [])] for gate, block in steps.places],
    }
    print(json.dumps(greeting), file=answers)
    kinds = {"weights": steps.weight_step, "architecture": steps.architecture_step}
    for line in sys.stdin:
        asked = json.loads(line)
        steps.choose(asked["names"])
        seconds = []
        for _ in range(asked["n"]):
            start = time.perf_counter(), time.process_time()
            kinds[asked["kind"]]()
            seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        print(json.dumps(seconds), file=answers)


if __name__ == "__main__":
    main()
