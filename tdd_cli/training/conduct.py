"""Conducts a run: takes steps from the training loop and keeps its log, checkpoints, previews and result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tdd_cli.errors import TddError
from tdd_cli.families.lora import bare_copy, save_lora
from tdd_cli.families.reload import Reload, check_saved, trial
from tdd_cli.files import replacing, write_atomic
from tdd_cli.generate import Sampling
from tdd_cli.pictures import save_png
from tdd_cli.recipe import LoraStudent, Recipe
from tdd_cli.run import Inference, Run
from tdd_cli.training import checkpoint
from tdd_cli.training.assemble import Assembled
from tdd_cli.training.loop import Step
from tdd_cli.training.preview import Previews

FLUSH = 10  # steps between two looks at the losses, which wait on the device until then
EMA = 0.98  # of the loss, per step


@dataclass(frozen=True)
class Report:
    """What the caller may show after a step."""

    step: int
    note: str | None = None  # loss and rate, where they were looked at
    saved: Path | None = None  # a checkpoint or a preview just written


def conduct(
    recipe: Recipe, run: Run, parts: Assembled, *, start: int, stop: int, halt: Callable[[], bool]
) -> Iterator[Report]:
    """Yields after each step from `start` to `stop`, and again for each file written.

    Where `halt()` turns true, the state is saved after the step under way, and nothing more is done.
    """
    log = Log(run, batch=recipe.train.global_batch)
    previews = (
        make_previews(recipe, parts) if recipe.preview.prompts and parts.accelerator.is_main_process else None
    )
    for done in parts.steps(start=start, steps=stop):
        log.add(done)
        halted = halt()
        due = done.step % recipe.checkpoint.every == 0 or done.step == stop or halted
        note = log.flush(run.checkpoints) if due or done.step % FLUSH == 0 else None
        yield Report(done.step, note)
        if due and parts.accelerator.is_main_process:
            yield Report(done.step, saved=save_checkpoint(run, parts, done.step, keep=recipe.checkpoint.keep))
        if halted:
            return
        every = recipe.preview.every
        if previews and (done.step == stop or (every and done.step % every == 0)):
            path = run.samples / f"step-{done.step:06d}.png"
            parts.family.net.eval()
            save_png(previews.draw(done.step), path)
            parts.family.net.train()
            yield Report(done.step, saved=path)


def save_checkpoint(run: Run, parts: Assembled, step: int, *, keep: int) -> Path:
    """Write a checkpoint of `step` and remove those beyond the newest `keep`."""
    scaler = parts.accelerator.scaler
    extra = {"scaler": scaler.state_dict()} if scaler is not None else {}
    path = checkpoint.save(run.checkpoints, step, parts.pair.state(), parts.optimizer, extra)
    checkpoint.prune(run.checkpoints, keep)
    return path


def restore(run: Run, parts: Assembled) -> int:
    """Put the newest checkpoint back and cut the log to it; the steps it has done, 0 without one."""
    newest = checkpoint.latest(run.checkpoints)
    step = 0
    if newest is not None:
        step, student, extra = checkpoint.load(newest, parts.optimizer)
        parts.pair.load_state(student)
        if "scaler" in extra and parts.accelerator.scaler is not None:
            parts.accelerator.scaler.load_state_dict(extra["scaler"])
    kept = [record for record in run.records() if record["step"] <= step]
    write_atomic(run.log_file, "".join(json.dumps(record) + "\n" for record in kept))
    return step


def finish(recipe: Recipe, run: Run, parts: Assembled) -> Reload | None:
    """Write the student and inference.json; the outcome of trying what was written, None for a full student.

    Raises TddError, with nothing left behind, where what was written does not compute what was trained.
    """
    family = parts.family
    family.net = parts.accelerator.unwrap_model(family.net)
    family.net.eval()
    inference, reload = Inference.of(recipe), None
    if isinstance(recipe.student, LoraStudent):
        metadata = {"tdd": json.dumps(inference.model_dump())}
        save_lora(family.net, run.adapter, metadata, prefix=family.lora_prefix)
        reload = check_saved(
            run.adapter, family.net, bare_copy(family.net), trial(family), prefix=family.lora_prefix
        )
        if not reload.ok:
            run.adapter.unlink()
            raise TddError(
                f"the adapter does not load as it was trained: modules {reload.matched}/{reload.total}, "
                f"max |delta| {reload.delta:.1e}",
                hint="Please report this; the trained state is in the run's checkpoints.",
            )
    else:
        with replacing(run.folder / "student") as beside:
            family.net.save_pretrained(beside, safe_serialization=True)  # type: ignore[operator]
    inference.save(run.inference)
    return reload


def make_previews(recipe: Recipe, parts: Assembled) -> Previews:
    """The previews of a run; draws the teacher's row."""
    return Previews(
        parts.family,
        parts.pair.student,
        parts.pair.teacher,
        recipe.preview.prompts,
        seed=recipe.preview.seed,
        size=(recipe.data.resolution, recipe.data.resolution),
        sampling=Sampling.of(Inference.of(recipe)),
        teacher_guidance=recipe.teacher.guidance,
    )


class Log:
    """log.jsonl: one record a step, written when the losses are looked at."""

    def __init__(self, run: Run, *, batch: int) -> None:
        self.run, self.batch = run, batch
        self.waiting: list[Step] = []
        last = list(run.records())[-1:]
        self.ema: float | None = last[0]["loss_ema"] if last else None
        self.since = time.perf_counter()

    def add(self, step: Step) -> None:
        """Keep a step until the next look."""
        self.waiting.append(step)

    def flush(self, checkpoints: Path) -> str:
        """Write the records of the steps waiting; a short note. TddError if a loss is not finite."""
        losses = torch.stack([step.loss for step in self.waiting]).tolist()
        norms = torch.stack([step.grad_norm for step in self.waiting]).tolist()
        now = time.perf_counter()
        rate = self.batch * len(self.waiting) / (now - self.since)
        for step, loss, norm in zip(self.waiting, losses, norms, strict=True):
            if not math.isfinite(loss):
                raise TddError(
                    f"the loss is {loss} at step {step.step}",
                    hint="Lower train.lr, or use precision bf16 or fp32. "
                    f"Last good state: {checkpoint.latest(checkpoints)}",
                )
            self.ema = loss if self.ema is None else EMA * self.ema + (1 - EMA) * loss
            record = {"step": step.step, "loss": loss, "loss_ema": self.ema, "grad_norm": norm, "lr": step.lr}
            self.run.log({**record, "images_per_s": round(rate, 2)})
        self.waiting, self.since = [], now
        return f"loss {self.ema:.4f}  {rate:.1f} images/s"
