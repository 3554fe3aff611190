"""``hwnas train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Json, Output, Quiet, SpaceArguments, UsageProblem, examples, keeping, new_app
from .measuring import file_name, share
from .networks import OneArchitecture, OwnSpace, Weights, read_network
from .processes import Processes, is_first, run_in_processes

if TYPE_CHECKING:
    from ..search.train import Trained

app = new_app()


@app.command(
    epilog=examples(
        "hwnas train --arch found.json --data digits:28",
        "hwnas train --arch found.json --data mnist5k --epochs 60 --held-out 10% --out results/long",
        "hwnas train --arch found.json --data digits:28 --weights results/search-proxyless-small-gradient --lr 0.01",
        "hwnas train --arch found.json --space proxyless --data imagefolder:/data/imagenet --epochs 300 "
        "--batch-size 256 --nproc 8",
    )
)
def train(
    ctx: typer.Context,
    arch: OneArchitecture,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="digits[:SIZE], mnist5k[:SIZE], cifar10:PATH, imagefolder:PATH or package.module:function.",
        ),
    ],
    space: OwnSpace = None,
    space_arguments: SpaceArguments = None,
    weights: Weights = None,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training images; 0 only tests.")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Of all processes together.")] = 64,
    lr: Annotated[float, typer.Option(help="At the start of a cosine that ends at 0.")] = 0.05,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Of all weights.")] = 4e-5,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of the uniform target.")] = 0.1,
    held_out: Annotated[
        str,
        typer.Option(metavar="SHARE", help="Training images to look at after each epoch instead of training on them."),
    ] = "0%",
    seed: Annotated[int, typer.Option(min=0, help="Of fresh weights, order and augmentation.")] = 0,
    precision: Annotated[
        str, typer.Option(help="auto (bf16 or fp16 on CUDA, fp32 on the CPU), fp32, bf16 or fp16.")
    ] = "auto",
    compute: Annotated[str, typer.Option(help="Where: auto (CUDA where there is one), cpu or cuda.")] = "auto",
    torch_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the training; default: as torch has it.")
    ] = None,
    sync_batch_norm: Annotated[
        bool, typer.Option("--sync-batch-norm", help="Batch statistics over the images of all processes.")
    ] = False,
    nproc: Processes = 1,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: results/train-SPACE.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin anew where a training is in the folder.")] = False,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Train the network of an architecture, from scratch or from given weights, and test it.

    SGD with Nesterov momentum 0.9, label smoothing, a cosine learning rate. The test images are used once, at the
    end. The same command goes on with a training that was interrupted.
    """
    output = Output(quiet or not is_first(), json_file if is_first() else None)
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise UsageProblem(f"--precision {precision!r}: use auto, fp32, bf16 or fp16")
    if nproc > 1:
        run_in_processes(ctx.obj, nproc)
    loaded, architecture = read_network(arch, space, space_arguments)
    from ..search.settings import WeightSettings
    from ..search.train import TrainRequest
    from ..search.train import train as run

    settings = WeightSettings(
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, label_smoothing=label_smoothing
    )
    request = TrainRequest(
        space=loaded,
        architecture=architecture,
        data=data,
        out=out or Path("results") / file_name("train", loaded.name),
        weights=weights,
        settings=settings,
        seed=seed,
        held_out=share(held_out, "--held-out"),
        compute=compute,
        threads=torch_threads,
        precision=precision,  # type: ignore[arg-type]
        sync_batch_norm=sync_batch_norm,
        force=force,
    )
    with (
        keeping(f"the last checkpoint is kept in {request.out}; the same command goes on from there"),
        output.progress() as progress,
    ):
        trained = run(request, progress)
    if is_first():
        _show(output, trained)
    output.finish(trained.as_dict())


def _show(output: Output, trained: "Trained") -> None:
    accuracy, held_out = trained.accuracy, trained.result.held_out
    rows: list[tuple[str, str]] = [
        ("architecture", trained.request.architecture.short()),
        ("test top-1 (%)", f"{accuracy.top1:.2f}"),
        ("test top-5 (%)", f"{accuracy.top5:.2f}"),
        ("test loss", f"{accuracy.loss:.4f}"),
    ]
    if held_out is not None:
        rows.append(("held-out top-1 (%)", f"{held_out['top1']:.2f}"))
    rows.append(("training (s)", f"{trained.result.seconds:.1f}"))
    output.table(("trained", "value"), rows)
    for note in trained.notes:
        output.line(f"note: {note}")
    output.line(f"weights.safetensors, report.json, the log and the plots are in {trained.request.out}")
