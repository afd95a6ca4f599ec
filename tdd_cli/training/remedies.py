"""What to change when a run does not fit into memory: what costs least first."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tdd_cli.recipe import LoraStudent, Recipe


def remedies(recipe: Recipe) -> str:
    """The changes this recipe has not made yet, as text."""
    return "\n".join(f"  --set {change}" for change in _changes(recipe))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; a CPU's allocator says it in words only."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def _changes(recipe: Recipe) -> Iterator[str]:
    train, data = recipe.train, recipe.data
    micro = train.device_batch or train.global_batch
    smaller = next((n for n in range(micro // 2, 0, -1) if train.global_batch % n == 0), None)
    if smaller:
        yield f"train.device_batch={smaller}  (the result stays the same, a step takes a little longer)"
    if data.cache != "all":
        yield "data.cache=all  (no text encoder in memory; one caption a picture)"
    if not train.gradient_checkpointing:
        yield "train.gradient_checkpointing=true  (about 30 % more time)"
    if isinstance(recipe.student, LoraStudent):
        if recipe.student.merge:
            yield "student.merge=false  (no second copy of the adapted weights; slower for small networks)"
    elif train.optimizer == "adamw":
        yield "train.optimizer=adamw8bit  (a quarter of the optimizer's state; extra 8bit)"
    if train.precision == "fp32":
        what = "frozen weights" if isinstance(recipe.student, LoraStudent) else "activations"
        yield f"train.precision=bf16  (half the memory of the {what})"
    if train.ema:
        yield "train.ema=null  (no average of the student)"
    if not isinstance(recipe.student, LoraStudent):
        yield "student.kind=lora  (an adapter: one copy of the weights, no optimizer state for them)"
    elif recipe.student.rank > 16:
        yield f"student.rank={recipe.student.rank // 2}  (a smaller adapter)"
    yield f"data.resolution={max(8, data.resolution // 2 // 8 * 8)}  (smaller pictures: a weaker student)"
