"""Whether data fit a search space."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import HwnasError
from ...spaces.failures import first_line
from ...spaces.space import SearchSpace
from .batches import Batches, first_batch
from .data import Data, DataError
from .loaders import LoaderBatches, checked_labels, shape


def check(space: SearchSpace, data: Data) -> None:
    """See `data.check_data`."""
    inputs = space.inputs(1)
    if len(inputs) != 1:
        raise DataError(f"space {space.name!r} takes {len(inputs)} inputs, data {data.name!r} give one: images")
    wanted = tuple(inputs[0].shape[1:])
    if wanted != data.input_shape:
        raise DataError(
            f"data {data.name!r} have images of {shape(data.input_shape)}, but space {space.name!r} takes "
            f"{shape(wanted)}; use data of that shape, or a space for these (--space-arg)"
        )
    outputs = _outputs(space, inputs[0])
    if outputs < data.classes or (data.exact and outputs != data.classes):
        raise DataError(
            f"data {data.name!r} have {data.classes} classes, but space {space.name!r} has {outputs} outputs; "
            f"use a space with as many (--space-arg classes={data.classes}), or other data"
        )
    for split in ("train", "held_out", "test"):
        _check_part(getattr(data, split), f"data {data.name!r}, {split}", inputs[0], outputs, split)


def _check_part(part: Batches, where: str, example: Tensor, outputs: int, split: str) -> None:
    if isinstance(part, LoaderBatches) and part.classes is None:
        part.classes = outputs
    if not len(part):
        if split == "held_out":
            return
        raise DataError(f"{where}: there are no images")
    images, labels = first_batch(part)
    if images.shape[1:] != example.shape[1:]:
        raise DataError(f"{where}: images are {shape(images[0])}, not {shape(example[0])}")
    if images.is_floating_point() != example.is_floating_point():
        found, wanted = (str(t.dtype).removeprefix("torch.") for t in (images, example))
        raise DataError(f"{where}: the space takes {wanted} numbers, the images are {found}")
    checked_labels(labels, outputs, where)


def _outputs(space: SearchSpace, example: Tensor) -> int:
    """How many classes the space's networks tell apart, by a run of one of them without data where that works."""
    architecture = space.sample(1, np.random.default_rng(0))[0]
    try:
        with torch.device("meta"):
            output = _run(space.build(architecture), example.to("meta"))
    except Exception:  # constructors with numpy buffers, forwards that look at values: those need real tensors
        try:
            with torch.random.fork_rng(devices=[]):
                output = _run(space.build(architecture), example)
        except HwnasError:
            raise
        except Exception as error:  # the user's forward may raise anything
            raise DataError(
                f"space {space.name!r} cannot be run on {shape(example[0])}: {first_line(error)}"
            ) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = shape(output) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise DataError(
            f"space {space.name!r} gives {found}; to classify, a network must give one number a class: (batch, classes)"
        )
    return output.shape[1]


def _run(network: nn.Module, example: Tensor) -> object:
    with torch.no_grad():
        return network.eval()(example)
