"""Conducts a run: takes steps from the training loop and keeps its log, checkpoints, previews and result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tdd_cli.errors import TddError, UsageError
from tdd_cli.families.base import Family
from tdd_cli.families.lora import bare_copy, save_lora
from tdd_cli.families.reload import ROUNDING, Reload, check_in_place, check_saved, check_whole, trial
from tdd_cli.families.sharded import gathered, is_sharded, plain_copy, rest
from tdd_cli.files import replacing, write_atomic
from tdd_cli.generate import Sampling
from tdd_cli.inference import Inference
from tdd_cli.pictures import save_png
from tdd_cli.recipe import LoraStudent, Recipe
from tdd_cli.run import Run
from tdd_cli.training import checkpoint
from tdd_cli.training.assemble import Assembled
from tdd_cli.training.log import Log
from tdd_cli.training.precision import precision
from tdd_cli.training.preview import Previews
from tdd_cli.training.trackers import tracking

FLUSH = 10  # steps between two looks at the losses, which wait on the device until then


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
    names = recipe.train.trackers if parts.accelerator.is_main_process else ()
    with tracking(names, run, recipe) as trackers:
        settings = recipe.train
        log = Log(
            run,
            parts.accelerator,
            batch=settings.global_batch,
            max_bad_steps=settings.max_bad_steps,
            trackers=trackers,
        )
        yield from _conduct(recipe, run, parts, log, start=start, stop=stop, halt=halt)


def _conduct(
    recipe: Recipe, run: Run, parts: Assembled, log: Log, *, start: int, stop: int, halt: Callable[[], bool]
) -> Iterator[Report]:
    main = parts.accelerator.is_main_process
    previews = None
    if recipe.preview.prompts and (main or is_sharded(parts.family.net)):
        with bare_network(parts):
            previews = make_previews(recipe, parts)
    for done in parts.steps(start=start, steps=stop):
        log.add(done)
        halted = agreed(halt(), done.step, parts.accelerator)
        due = done.step % recipe.checkpoint.every == 0 or done.step == stop or halted
        note = log.flush() if due or done.step % FLUSH == 0 else None
        yield Report(done.step, note)
        if due:
            keep, every = recipe.checkpoint.keep, recipe.checkpoint.keep_every
            path = save_checkpoint(run, parts, done.step, keep=keep, milestones=every)
            yield Report(done.step, saved=path)
        if halted:
            return
        every = recipe.preview.every
        if previews and (done.step == stop or (every and done.step % every == 0)):
            path = run.samples / f"step-{done.step:06d}.png"
            with bare_network(parts), averaged(parts):
                drawn = previews.draw(done.step)
            if main:
                save_png(drawn, path)
            yield Report(done.step, saved=path)


@contextmanager
def bare_network(parts: Assembled) -> Iterator[None]:
    """Within it the family's network lacks its distributed wrapper, whose calls are for all processes.

    A sharded network has no such wrapper: all processes must make its calls.
    """
    family, wrapped = parts.family, parts.family.net
    family.net = parts.accelerator.unwrap_model(wrapped, keep_torch_compile=False)
    family.net.eval()
    try:
        yield
    finally:
        rest(family.net)
        family.net.train()
        family.net = wrapped


def averaged(parts: Assembled) -> AbstractContextManager[None]:
    """Within it the student is its average over the steps, where the run keeps one."""
    return parts.ema.applied() if parts.ema else nullcontext()


def agreed(halt: bool, step: int, accelerator: Accelerator) -> bool:
    """Whether to stop: with several processes all after the same step, where one of them was told to."""
    if accelerator.num_processes == 1:
        return halt
    if step % FLUSH:
        return False
    told = torch.tensor(float(halt), device=accelerator.device)
    return bool(accelerator.reduce(told, "sum") > 0)


def save_checkpoint(run: Run, parts: Assembled, step: int, *, keep: int, milestones: int = 0) -> Path:
    """Write a checkpoint of `step`; of the others the newest `keep` and the milestones stay.

    By the main process; the others give it what is sharded, and return the same path.
    """
    main = parts.accelerator.is_main_process
    scaler = parts.accelerator.scaler
    extra = {"scaler": scaler.state_dict()} if scaler is not None else {}
    states = {"student": parts.pair.state()}
    if parts.ema:
        with parts.ema.applied():
            states["ema"] = gathered(parts.pair.state(), keep=main)
    path = checkpoint.save(run.checkpoints, step, states, parts.optimizer, extra, write=main)
    if main:
        checkpoint.prune(run.checkpoints, keep, milestones=milestones)
    return path


def restore(run: Run, parts: Assembled, *, say: Callable[[str], None] = lambda text: None) -> int:
    """Put the newest checkpoint back and cut the log to it; the steps it has done, 0 without one.

    One that cannot be read is left aside, which is said, and the one before is taken.
    """
    found = None
    for path in reversed(checkpoint.list_all(run.checkpoints)):
        try:
            found = checkpoint.load(path, parts.optimizer)
            break
        except UsageError as error:
            say(f"{error.message}; trying the one before")
    step = 0
    if found is not None:
        step, states, extra = found
        if parts.ema:
            parts.pair.load_state(states.get("ema", states["student"]))
            parts.ema.restart()
        parts.pair.load_state(states["student"])
        if "scaler" in extra and parts.accelerator.scaler is not None:
            parts.accelerator.scaler.load_state_dict(extra["scaler"])
    if parts.accelerator.is_main_process:
        kept = [record for record in run.records() if record["step"] <= step]
        write_atomic(run.log_file, "".join(json.dumps(record) + "\n" for record in kept))
    parts.accelerator.wait_for_everyone()
    return step


def finish(recipe: Recipe, run: Run, parts: Assembled) -> Reload | None:
    """Write the student and inference.json; the outcome of trying what was written.

    By the main process, with the help of the others where the network is sharded: they get None.

    Raises TddError, with nothing left behind, where what was written does not compute what was trained.
    """
    parts.family.net = parts.accelerator.unwrap_model(parts.family.net, keep_torch_compile=False)
    parts.family.net.eval()
    main, reload = parts.accelerator.is_main_process, None
    write = _write_adapter if isinstance(recipe.student, LoraStudent) else _write_whole
    if main or is_sharded(parts.family.net):
        with averaged(parts):
            reload = write(recipe, run, parts.family, parts.accelerator)
    if main:
        Inference.of(recipe).save(run.inference)
    return reload


def _write_adapter(recipe: Recipe, run: Run, family: Family, accelerator: Accelerator) -> Reload:
    """The adapter as a file of the run, tried; of all processes where the network is sharded."""
    net, main = family.net, accelerator.is_main_process
    metadata = {"tdd": json.dumps(Inference.of(recipe).model_dump())}
    save_lora(net, run.adapter, metadata, prefix=family.lora_prefix, write=main)
    if is_sharded(net):
        accelerator.wait_for_everyone()
        reload = check_in_place(run.adapter, net, trial(family), prefix=family.lora_prefix)
        accelerator.wait_for_everyone()
    else:
        fresh = bare_copy(net)
        reload = check_saved(run.adapter, net, fresh, trial(family), prefix=family.lora_prefix)
    if not reload.ok:
        run.adapter.unlink(missing_ok=True)
        raise _does_not_load("adapter", reload)
    return reload


def _write_whole(recipe: Recipe, run: Run, family: Family, accelerator: Accelerator) -> Reload | None:
    """All weights as a folder of the run, tried; of all processes where the network is sharded.

    Sharded weights are tried by value alone, as no process can compute with all of them.
    """
    sharded, folder = is_sharded(family.net), run.folder / "student"
    net: Any = plain_copy(family.net, keep=accelerator.is_main_process) if sharded else family.net
    if not accelerator.is_main_process:
        return None
    with replacing(folder) as beside:
        net.save_pretrained(beside, safe_serialization=True)
    rounding = ROUNDING[precision(recipe.train.precision).frozen]
    with accelerator.autocast():
        reload = check_whole(folder, net, None if sharded else trial(family), rounding=rounding)
    if not reload.ok:
        shutil.rmtree(folder)
        raise _does_not_load("student", reload)
    return reload


def _does_not_load(what: str, reload: Reload) -> TddError:
    return TddError(
        f"the {what} does not load as it was trained: modules {reload.matched}/{reload.total}, "
        f"max |delta| {reload.delta:.1e}",
        hint="Please report this; the trained state is in the run's checkpoints.",
    )


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
