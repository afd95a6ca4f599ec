"""log.jsonl: one record for each optimizer step, written when somebody looks at the losses."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from tdd_cli.data.rejects import REASONS, tally
from tdd_cli.errors import TddError
from tdd_cli.run import Run
from tdd_cli.training import checkpoint
from tdd_cli.training.loop import Step
from tdd_cli.training.trackers import Tracker, numbers

SMOOTH = 0.98  # of the loss's moving average, per step


class Log:
    """The steps since the last look, and what is carried on from one to the next.

    Every process keeps one and looks after the same steps: they average their losses. One of them writes.
    """

    def __init__(
        self,
        run: Run,
        accelerator: Accelerator,
        *,
        batch: int,
        max_bad_steps: int,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.run, self.accelerator, self.batch, self.max_bad = run, accelerator, batch, max_bad_steps
        self.trackers = trackers
        self.waiting: list[Step] = []
        records = list(run.records())
        self.ema: float | None = records[-1]["loss_ema"] if records else None
        self.bad = _skipped_at_end(records)
        self.since = time.perf_counter()

    def add(self, step: Step) -> None:
        """Keep a step until the next look."""
        self.waiting.append(step)

    def flush(self) -> str:
        """Write the records of the steps waiting; a short note. TddError after too many skipped updates."""
        losses, counts = self._of_all_processes()
        norms = torch.stack([step.update.grad_norm for step in self.waiting]).tolist()
        now = time.perf_counter()
        rate = self.batch * len(self.waiting) / (now - self.since)
        same = {"images_per_s": round(rate, 2), "peak_memory_mb": peak_memory() // 2**20}
        for step, loss, norm, left_out in zip(self.waiting, losses, norms, counts, strict=True):
            record = {**self._record(step, loss, norm), **same}
            if any(left_out):
                record["left_out"] = {name: n for name, n in zip(REASONS, left_out, strict=True) if n}
            if self.accelerator.is_main_process:
                self.run.log(record)
            for tracker in self.trackers:
                tracker.log(numbers(record), step.step)
            self._check(step.step)
        self.waiting, self.since = [], now
        return f"loss {math.nan if self.ema is None else self.ema:.4f}  {rate:.1f} images/s"

    def _record(self, step: Step, loss: float, norm: float) -> dict[str, Any]:
        """A step in numbers; what is not finite is null, since JSON knows no other."""
        good = math.isfinite(loss) and math.isfinite(norm)
        if good:
            self.ema = loss if self.ema is None else SMOOTH * self.ema + (1 - SMOOTH) * loss
        record = {"step": step.step, "loss": _finite(loss), "loss_ema": self.ema, "grad_norm": _finite(norm)}
        scale = step.update.scale
        record |= {"lr": step.update.lr, **({} if scale is None else {"loss_scale": scale.item()})}
        record |= {} if good else {"skipped": True}
        self.bad = 0 if good else self.bad + is_bad(record)
        return record

    def _check(self, step: int) -> None:
        if self.bad >= self.max_bad:
            raise TddError(
                f"{self.bad} updates in a row were skipped, up to step {step}: "
                "the loss or its gradient is not finite",
                hint="Lower train.lr, or use precision bf16 or fp32. "
                f"Last good state: {checkpoint.latest(self.run.checkpoints) or 'none was saved yet'}",
            )

    def _of_all_processes(self) -> tuple[list[float], list[list[int]]]:
        """(mean loss, samples left out by reason) of each step waiting, over all processes."""
        losses = torch.stack([step.loss.float() for step in self.waiting])
        counted = [tally(step.left_out) for step in self.waiting]
        counts = losses.new_tensor([[float(one[reason]) for reason in REASONS] for one in counted])
        if self.accelerator.num_processes > 1:
            losses = self.accelerator.reduce(losses, "mean")
            counts = self.accelerator.reduce(counts, "sum")
        return losses.tolist(), counts.long().tolist()


def peak_memory() -> int:
    """The most memory this process has had, bytes: the accelerator's where there is one; 0 if unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def is_bad(record: Mapping[str, Any]) -> bool:
    """Whether a skipped update speaks against the run.

    Not where a gradient scaler was finding its scale: it starts high, and halves it whenever a gradient
    overflows. At a scale of 1 nothing overflows but what would without it.
    """
    return record["loss"] is None or record.get("loss_scale", 1.0) <= 1


def _skipped_at_end(records: list[dict[str, Any]]) -> int:
    """How many of the last records are of skipped updates that count."""
    count = 0
    for record in reversed(records):
        if not record.get("skipped"):
            break
        count += is_bad(record)
    return count
