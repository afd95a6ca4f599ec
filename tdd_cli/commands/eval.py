"""tdd eval: figures for runs, models and folders of pictures, by a recorded protocol."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdd_cli.errors import Interrupted

if TYPE_CHECKING:
    from tdd_cli.evaluation.evaluate import Plan, Worker
    from tdd_cli.evaluation.results import Entry, Result
    from tdd_cli.evaluation.subjects import Subject

TEACHER_STEPS = 50
SETTING = "Values to try, e.g. {}. (default: the student's own)"


def eval(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Run folders of tdd distill.", show_default=False),
    ] = None,
    metric: Annotated[
        str,
        typer.Option("--metric", help="fid, kid, is, fd-dinov2, cmmd, clip, teacher, speed; with commas."),
    ] = "fid,kid,clip",
    set_: Annotated[
        str,
        typer.Option(
            "--set", metavar="NAME", help="coco30k, coco10k, coco5k, coco2k, parti, emoji or folder:DIR."
        ),
    ] = "emoji",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A hub id, folder, .safetensors file or bundled:emoji."),
    ] = None,
    family: Annotated[str, typer.Option("--family", help="The family of --model.")] = "sdxl",
    lora: Annotated[
        Path | None, typer.Option("--lora", help="An adapter file, for --model or with its settings.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="A folder of pictures, one for each caption.")
    ] = None,
    steps: Annotated[str | None, typer.Option("--steps", "-s", help=SETTING.format("4-8 or 4,8"))] = None,
    guidance: Annotated[str | None, typer.Option("--guidance", "-g", help=SETTING.format("1,1.5,2"))] = None,
    eta: Annotated[str | None, typer.Option("--eta", help=SETTING.format("0,0.2"))] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help=SETTING.format("equal,early"))] = None,
    clip_x0: Annotated[str | None, typer.Option("--clip-x0", help=SETTING.format("off,on"))] = None,
    guidance_mode: Annotated[
        str | None, typer.Option("--guidance-mode", help=SETTING.format("cfg,post"))
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Baseline: teacher, a RUN, a model, or an eval.json.")
    ] = None,
    teacher_steps: Annotated[
        int, typer.Option("--teacher-steps", min=1, help="Steps of the teacher.")
    ] = TEACHER_STEPS,
    teacher_guidance: Annotated[
        float | None,
        typer.Option("--teacher-guidance", min=1, help="Its guidance. (default: as it was distilled)"),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=1, help="Pictures. (default: the protocol's)")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Where the set's files are: a folder or a hub id.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option("--resize", min=8, help="For folder:DIR: crop and resize to N pixels.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="[METRIC=]MODEL", help="Another feature network."),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option("--inception", help="Inception's weights file. (default: downloaded once)")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first caption's noise.")] = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures drawn together.")] = 16,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the results. (default: evals/SET-PROTOCOL)")
    ] = None,
    save_pictures: Annotated[
        bool, typer.Option("--save-pictures", help="Also write every picture as a PNG.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print eval.json instead of the table.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Show a baseline of another protocol all the same.")
    ] = False,
) -> None:
    """Measure quality and speed by a recorded protocol; resumable, and comparable later.

    Examples:
      tdd eval --metric fid --set coco30k --data coco

      tdd eval runs/mine --steps 4-8 --guidance 1,1.5,2 --against teacher

      tdd eval --images drawn/ --metric fid,kid --set folder:photos --resize 256
    """
    from tdd_cli.evaluation import asked
    from tdd_cli.evaluation.evaluate import Plan, Worker, choose_networks, result_of
    from tdd_cli.evaluation.protocol import choose
    from tdd_cli.evaluation.remarks import remarks
    from tdd_cli.evaluation.results import FILE, SHARDS, Result, check_alike, compared, join, with_samples
    from tdd_cli.evaluation.sets import open_set
    from tdd_cli.files import check_writable
    from tdd_cli.processes import together
    from tdd_cli.student import fastest

    metrics = asked.metrics(metric)
    chosen = asked.features(features or [], metrics)
    axes = {
        "steps": steps, "guidance": guidance, "eta": eta, "schedule": schedule, "clip-x0": clip_x0,
        "guidance-mode": guidance_mode,
    }  # fmt: skip
    worker = Worker.current()
    stored = [asked.pictures(images, n)] if images else []
    models = asked.models(runs or [], model, family, lora, bundled=not stored)
    with together(), worker.first():
        found = open_set(set_, data=data, side=resize)
    rules = choose(found, n if n or not stored else len(stored[0].pictures), seed=seed)
    asked.check_set(metrics, rules, axes, drawing=bool(models))
    drawn = [each for one in models for each in asked.drawn(one, axes, rules, batch)]
    past = Result.load(Path(against)) if against and against.endswith(".json") else None
    teacher = None
    if "teacher" in metrics or against == "teacher":
        teacher = asked.teacher(models, rules, batch, steps=teacher_steps, guidance=teacher_guidance)
    baselines: list[Subject] = []
    if against == "teacher" and teacher:
        baselines = [teacher]
    elif against and past is None:
        baselines = [*asked.drawn(asked.named(against), axes, rules, batch)]
    folder = out or Path("evals") / f"{_slug(set_)}-{rules.sha256[:8]}"
    check_writable(folder)
    with together(), worker.first():
        for each in asked.models_of([*drawn, *baselines]):
            each.check()
        networks = choose_networks(metrics, found, chosen, device=fastest(), inception=inception)
    plan = Plan(
        rules, [*stored, *drawn], metrics, networks, folder / SHARDS, teacher=teacher, baselines=baselines,
        pictures=folder / "pictures" if save_pictures else None,
    )  # fmt: skip
    before = Result.load(folder / FILE) if (folder / FILE).is_file() else None
    empty = result_of(plan, [])
    if before:
        check_alike(empty, before, hint=f"Another --out than {folder}: a folder is of one protocol.")
    if past and not force:
        check_alike(empty, past, hint="Measure both by one protocol, or compare all the same: --force.")
    entries = list(_measure(plan, worker))
    if worker.index == 0:
        result = result_of(plan, entries)
        if before:
            result = join(result, with_samples(before, folder), rebased=bool(against))
        if past:
            result = compared(result, with_samples(past, Path(str(against)).parent))
        remarked = replace(result, remarks=remarks(rules, result.measures, result.entries))
        _finish(remarked, folder, as_json=as_json)


def _slug(name: str) -> str:
    """A set's name as part of a folder's."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def _measure(plan: Plan, worker: Worker) -> Iterator[Entry]:
    """The entries, with a line of progress for each part on stderr of process 0."""
    from tdd_cli.evaluation.evaluate import Progress, evaluate
    from tdd_cli.processes import together
    from tdd_cli.progress import Meter

    with ExitStack() as shown, together():
        meter, last = None, -1
        try:
            for step in evaluate(plan, worker):
                if not isinstance(step, Progress):
                    yield step
                elif worker.index == 0:
                    if meter is None or step.part != last:
                        shown.close()
                        meter, last = shown.enter_context(Meter(step.what, step.total)), step.part
                    meter.show(min(step.done, step.total), "")
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped; what was drawn and measured is kept", hint="The same command goes on from there."
            ) from None


def _finish(result: Result, folder: Path, *, as_json: bool) -> None:
    """Write eval.json and report.html, print."""
    from rich.console import Console

    from tdd_cli.evaluation.report import write_report
    from tdd_cli.evaluation.results import FILE
    from tdd_cli.evaluation.terminal import show

    result.save(folder / FILE)
    write_report(result, folder / "report.html")
    if as_json:
        typer.echo(result.dumps())
        return
    width = None if sys.stdout.isatty() else 200  # a file has no edge to wrap at
    show(result, Console(highlight=False, width=width))
    for remark in result.remarks:
        typer.echo(f"note: {remark}", err=True)
    typer.echo(f"{folder / FILE}\n{folder / 'report.html'}", err=True)
