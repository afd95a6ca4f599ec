"""DeepSpeed's ZeRO, stages 1 and 2, under a run: the optimizer's state (1) and the gradients (2) spread.

Every process has the weights whole, so that student, teacher and previews are as they are without it.
Accelerate's own way of using DeepSpeed steps inside `backward`, and keeps pickled checkpoints; here the
engine is used for gradients and updates alone, and its state is gathered into the checkpoints of any run.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tdd_cli.errors import RecipeError, UsageError
from tdd_cli.training.descent import Descent, Update
from tdd_cli.training.extras import require
from tdd_cli.training.student import Pair

ASKED = "ACCELERATE_USE_DEEPSPEED"
FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"

OURS = ("optimizer", "scheduler", "fp16", "bf16", "torch_autocast", "gradient_clipping", "train_batch_size")
"""What a configuration file may not say, since the recipe does."""

MOMENTS = ("exp_avg", "exp_avg_sq")


def zero_settings(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The zero_optimization that `accelerate launch` asks for, None where it does not; or UsageError."""
    if environment.get(ASKED, "").lower() != "true":
        return None
    require("deepspeed", extra="deepspeed", setting="a DeepSpeed configuration")
    file = environment.get(FILE, "none")
    found = _of_file(Path(file)) if file != "none" else _of_launcher(environment)
    if found.get("stage") not in (1, 2):
        raise UsageError(
            f"tdd trains under ZeRO stages 1 and 2, and this configuration has stage {found.get('stage')}",
            hint="For spread weights, as stage 3 has them, use FSDP2: recipes/accelerate/fsdp2.yaml.",
        )
    for what in ("offload_optimizer", "offload_param"):
        if found.get(what, {}).get("device", "none") != "none":
            raise UsageError(
                f"{what} is not supported under DeepSpeed",
                hint="Leave it out, or use train.optimizer=paged_adamw8bit without DeepSpeed.",
            )
    return found


def _of_launcher(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the launcher made of a file's deepspeed_config."""

    def said(name: str) -> str:
        return environment.get(f"ACCELERATE_DEEPSPEED_{name}", "none")

    return {
        "stage": int(said("ZERO_STAGE")) if said("ZERO_STAGE").isdigit() else None,
        "offload_optimizer": {"device": said("OFFLOAD_OPTIMIZER_DEVICE")},
        "offload_param": {"device": said("OFFLOAD_PARAM_DEVICE")},
    }


def _of_file(path: Path) -> dict[str, Any]:
    """The zero_optimization of DeepSpeed's own kind of file; UsageError where it says too much."""
    try:
        read = json.loads(path.read_text("utf-8"))
        found = dict(read.get("zero_optimization", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a configuration of DeepSpeed's: {error}") from None
    if said := [name for name in OURS if name in read]:
        raise UsageError(
            f"{path} has {', '.join(said)}, which the recipe decides",
            hint="Leave them out; train.lr, train.precision, train.grad_clip and train.global_batch say it.",
        )
    return found


@contextmanager
def hidden(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Within it accelerate does not know that DeepSpeed was asked for."""
    asked = environment.pop(ASKED, None)
    try:
        yield
    finally:
        if asked is not None:
            environment[ASKED] = asked


def check_recipe(*, optimizer: str, precision: str) -> None:
    """RecipeError for what ZeRO cannot be right with."""
    if optimizer != "adamw":
        raise RecipeError(
            f"train.optimizer {optimizer} does not take a flat share of all parameters",
            hint="--set train.optimizer=adamw",
        )
    if precision == "fp16":
        raise RecipeError(
            "train.precision fp16 needs a gradient scaler, which DeepSpeed would replace",
            hint="--set train.precision=bf16, or fp32",
        )


@dataclass(frozen=True)
class Zero(Descent):
    """Gradients and updates by DeepSpeed's engine."""

    engine: Any
    optimizer: Gathered

    def part(self, *, last: bool) -> AbstractContextManager[object]:
        """See Descent."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See Descent."""
        self.engine.backward(loss)

    def step(self, lr: float) -> Update:
        """See Descent. DeepSpeed looks at the norm on the host, and skips a step that is not finite."""
        self.optimizer.rate(lr)
        self.engine.step()
        norm = torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float32)
        return Update(norm.to(self.engine.device), lr)


class Gathered(torch.optim.Optimizer):
    """ZeRO's optimizer seen from outside: with the state of whole parameters, as plain AdamW has it.

    plain   the optimizer made for the whole parameters; it holds this process's flat share of them now
    zero    DeepSpeed's optimizer around it
    """

    def __init__(self, plain: torch.optim.Optimizer, zero: Any, parameters: list[nn.Parameter]) -> None:
        self.optimizer, self.zero, self.parameters = plain, zero, parameters
        self.defaults = plain.defaults
        self.param_groups = [{**plain.param_groups[0], "params": parameters}]
        self.state = plain.state

    def rate(self, lr: float) -> None:
        """Set the learning rate."""
        for group in (*self.optimizer.param_groups, *self.param_groups):
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors; of all processes."""
        from deepspeed.utils import safe_get_full_optimizer_state

        numbers = range(len(self.parameters))
        groups = [{**self.param_groups[0], "params": list(numbers)}]
        if not self.optimizer.state:
            return {"state": {}, "param_groups": groups}
        step = self.optimizer.state[self._share()]["step"]
        state = {
            i: {
                "step": step.clone(),
                **{name: safe_get_full_optimizer_state(self.parameters[i], name) for name in MOMENTS},
            }
            for i in numbers
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep this process's share of what `state_dict` gave, here or without DeepSpeed."""
        from deepspeed.utils import safe_set_full_optimizer_state

        if not state_dict["state"]:
            return
        share = self._share()
        step = state_dict["state"][0]["step"].to(share.device)
        self.optimizer.state[share] = {"step": step} | {name: torch.zeros_like(share) for name in MOMENTS}
        self.zero._lazy_init_hp_params_optimizer_state()
        for i, parameter in enumerate(self.parameters):
            for name in MOMENTS:
                value = state_dict["state"][i][name].to(share.device)
                safe_set_full_optimizer_state(parameter, value, name)

    def _share(self) -> Tensor:
        share: Tensor = self.optimizer.param_groups[0]["params"][0]
        return share


def zero_pair(
    net: nn.Module,
    pair: Pair,
    optimizer: torch.optim.Optimizer,
    asked: Mapping[str, Any],
    *,
    grad_clip: float,
) -> tuple[Pair, Zero]:
    """The same student and teacher after DeepSpeed took their parameters, and what trains them."""
    config = {
        "train_micro_batch_size_per_gpu": 1,  # not looked at: losses are means already
        "gradient_accumulation_steps": 1,
        "gradient_clipping": grad_clip,
        "zero_optimization": dict(asked),
        "zero_allow_untested_optimizer": True,  # torch's own AdamW
        "steps_per_print": 10**9,
    }
    with redirect_stdout(sys.stderr):  # it talks there, where a run prints its folder
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        engine, zero, *_ = deepspeed.initialize(
            model=net, optimizer=optimizer, model_parameters=pair.parameters, config=config
        )
    loaded = pair.load_state

    def load_state(state: Mapping[str, Tensor]) -> None:
        loaded(state)
        zero.refresh_fp32_params()  # or the next step would start from the shares there were

    gathered = Gathered(optimizer, zero, pair.parameters)
    return replace(pair, load_state=load_state), Zero(engine, gathered)
