"""tdd export: a student as a file or folder that other programs load, tried before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdd_cli.errors import UsageError

if TYPE_CHECKING:
    from tdd_cli.inference import Inference

EXPORTS = Path("exports")
PROMPTS = ("a fox", "a red apple", "a rocket", "a castle")  # of the pictures, where no run has its own


def export(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="A run folder.", show_default="the latest, or the bundled student"
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option("--format", "-f", help="safetensors, kohya, merged or single-file.")
    ] = "safetensors",
    lora: Annotated[
        Path | None, typer.Option("--lora", help="An adapter file instead of a run, of any origin.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The base model of --lora.")] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="Of --model: sdxl or sd15.", show_default="its folder's")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="The configuration's folder, for a base model in a single file."),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="The alpha of a --lora that has lost its own.")
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="Strength, multiplied in.")] = 1.0,
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Compress the adapter to this rank.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="fp32 (exact), fp16 or bf16 (half the size).")
    ] = "fp32",
    merge_into: Annotated[
        str | None,
        typer.Option(
            "--merge-into", metavar="MODEL", help="Another base model, for merged and single-file."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", "-s", min=1, help="Record other steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", "-g", min=0, help="Record another guidance.")
    ] = None,
    eta: Annotated[
        float | None, typer.Option("--eta", min=0, max=1, help="Record another eta.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Sample pictures on the model card.")
    ] = True,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", help="An eval.json for the card.", show_default="the one beside the weights"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The folder to write.", show_default="exports/NAME"
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload to the hub.")
    ] = None,
) -> None:  # fmt: skip
    """Write a student for other programs: weights, settings and a model card.

    Examples:
      tdd export --format safetensors

      tdd export runs/mine --format kohya --dtype fp16 --rank 16

      tdd export --lora lcm.safetensors --model MODEL --format single-file
    """
    from tdd_cli.exporting.export import DTYPES, open_student, shrink, write_student
    from tdd_cli.exporting.formats import EXPORTERS
    from tdd_cli.exporting.hub import check_repo
    from tdd_cli.exporting.hub import push as upload
    from tdd_cli.generate import Sampling
    from tdd_cli.student import on

    _known("--format", kind, list(EXPORTERS))
    _known("--dtype", dtype, list(DTYPES))
    if push is not None:
        check_repo(push)
    inference, weights, name = _student(run, lora, model, family)
    inference = _changed(
        on(inference, merge_into), steps=steps, guidance=guidance, eta=eta, config=config and str(config)
    )
    Sampling.of(inference).times()  # refused here, before anything is loaded
    adapter = EXPORTERS[kind].adapter
    _fits(
        inference, kind, adapter=adapter, merge_into=merge_into,
        changed=scale != 1 or rank is not None or alpha is not None,
    )  # fmt: skip
    folder = _free(out, EXPORTS / (name if kind == "safetensors" else f"{name}-{kind}"))
    table = _table(evaluation, weights.parent)

    student = open_student(inference, weights, scale=scale, alpha=alpha)
    if rank is not None:
        error = shrink(student, rank)
        typer.echo(f"rank {rank}: relative error of the update {error:.1e}", err=True)
    if pictures:
        typer.echo("drawing pictures for the model card; --no-pictures leaves them out", err=True)
    done = write_student(
        student, inference, folder,
        kind=kind, dtype=DTYPES[dtype], scores=table,
        prompts=_prompts(weights.parent) if pictures else (),
    )  # fmt: skip
    typer.echo(
        f"reload check: modules {done.reload.matched}/{done.reload.total}, "
        f"max |delta| {done.reload.delta:.1e}",
        err=True,
    )
    typer.echo(f"{folder}: {_listing(folder)}", err=True)
    typer.echo(str(done.weights))
    if push is not None:
        if adapter and Path(inference.model).exists():
            typer.echo(f"the base model is recorded as {inference.model}, which is on this machine", err=True)
        typer.echo(f"uploaded to {upload(folder, push)}", err=True)


def _student(
    run: Path | None, lora: Path | None, model: str | None, family: str | None
) -> tuple[Inference, Path, str]:
    """(settings, weights, name) of what is exported; says which where none was named."""
    from tdd_cli.run import latest_run
    from tdd_cli.student import bundled, described, family_of, settings

    if lora is not None:
        if run is not None:
            raise UsageError("a run has its own adapter", hint="Give either RUN or --lora.")
        known = family or family_of(Path(model or "").expanduser())
        inference, weights = settings(None, model, known, lora)
        if described(lora) is None:
            typer.echo(
                f"{lora.name} does not say how it is sampled: --steps, --guidance, --eta record it", err=True
            )
        return inference, weights or lora, lora.stem
    if model is not None:
        raise UsageError("--model is the base model of --lora", hint="To change a run's: --merge-into.")
    if run is None and (latest := latest_run(finished=True)) is not None:
        run = latest.folder
        typer.echo(f"the latest run, {run}", err=True)
    if run is not None:
        inference, weights = settings(run, None, "", None)
        assert weights is not None, "a run has weights"
        return inference, weights, run.resolve().name
    typer.echo("the bundled student (emoji, distilled with emoji-4to8)", err=True)
    inference, weights = bundled()
    return inference, weights, "emoji-student"


def _known(option: str, given: str, known: Sequence[str]) -> None:
    from tdd_cli.recipe_keys import nearest

    if given not in known:
        close = nearest(given, list(known))
        raise UsageError(
            f"{option} {given} is unknown" + (f"; did you mean {close}?" if close else ""),
            hint=f"Known: {', '.join(known)}.",
        )


def _changed(inference: Inference, **changes: Any) -> Inference:
    """The settings with those that are not None, checked together."""
    given = {key: value for key, value in changes.items() if value is not None}
    return type(inference).model_validate({**inference.model_dump(), **given})


def _fits(inference: Inference, kind: str, *, adapter: bool, merge_into: str | None, changed: bool) -> None:
    """Refuse what the format, or a student that is no adapter, cannot be."""
    if merge_into is not None and adapter:
        raise UsageError(
            f"--format {kind} is an adapter: it has no base model to merge into",
            hint="Use --format merged or single-file.",
        )
    if inference.student == "lora":
        return
    if adapter:
        raise UsageError(
            "this student is a whole network, not an adapter", hint="Use --format merged or single-file."
        )
    if merge_into is not None or changed:
        raise UsageError("--merge-into, --scale, --rank and --alpha are for adapters; this student is none")


def _prompts(folder: Path) -> Sequence[str]:
    """The first prompts of a run's previews, or general ones."""
    from tdd_cli.run import Run

    run = Run(folder)
    own = run.load_recipe().preview.prompts if run.recipe.is_file() else []
    return own[: len(PROMPTS)] or PROMPTS


def _table(evaluation: Path | None, folder: Path) -> str:
    """The evaluation asked for, or one beside the weights, or none."""
    from tdd_cli.exporting.scores import scores

    found = evaluation or folder / "eval.json"
    return scores(found) if evaluation or found.is_file() else ""


def _free(out: Path | None, default: Path) -> Path:
    """The folder asked for, which must hold nothing, or the default with a number where that is taken."""
    if out is not None:
        if out.suffix == ".safetensors":
            raise UsageError(
                f"--out {out}: a folder is written, with settings and a card beside the weights",
                hint=f"For instance: --out {out.with_suffix('')}",
            )
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} exists and is not an empty folder", hint="Give another --out.")
        return out
    folder, number = default, 2
    while folder.exists():
        folder, number = default.with_name(f"{default.name}-{number}"), number + 1
    return folder


def _listing(folder: Path) -> str:
    """What is directly in a folder, folders with all they hold."""
    sizes = {
        path.name: sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        for path in sorted(folder.iterdir())
    }
    return ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
