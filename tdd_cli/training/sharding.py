"""FSDP2 under a run: which of accelerate's settings can be right, and student and teacher once sharded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import disable_fsdp_ram_efficient_loading, fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from tdd_cli.errors import RecipeError, UsageError
from tdd_cli.families.sharded import parts_of
from tdd_cli.training.student import Pair

UNFIT = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
"""Of accelerate's environment: what would take the step, or a share of the batch, out of our hands."""

ARITHMETIC = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def check_launcher(environment: Mapping[str, str]) -> None:
    """UsageError where accelerate was told to do what a run does not know of; before it begins to."""
    for name, what in UNFIT.items():
        if environment.get(name, "").lower() == "true":
            raise UsageError(
                f"tdd does not train under {what}",
                hint="Use DDP, FSDP2 or ZeRO; docs/distributed.md has configuration files for each.",
            )


def settle(accelerator: Accelerator, *, merge: bool, optimizer: str) -> None:
    """Make accelerate's settings for FSDP fit a run, if it has any; to be called before a model is loaded.

    Raises UsageError, or RecipeError where it is the recipe's, for what cannot be right.
    """
    state: Any = accelerator.state
    asked = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if asked and state.distributed_type == DistributedType.MULTI_CPU:
        # accelerate passes FSDP over where there is no GPU; torch does not need one
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
    if state.distributed_type == DistributedType.FSDP:
        _check_plugin(state.fsdp_plugin)
        _check_recipe(merge=merge, optimizer=optimizer)
        # or transformers loads weights in the first process only, the text encoders' too
        state.fsdp_plugin.cpu_ram_efficient_loading = False
        disable_fsdp_ram_efficient_loading()
        state.fsdp_plugin.mixed_precision_policy = policy(accelerator.mixed_precision)


def policy(mixed: str) -> MixedPrecisionPolicy:
    """Weights travel in 16 bits, gradients in 32; inputs are left alone, since 16 bits round timesteps."""
    return MixedPrecisionPolicy(
        param_dtype=ARITHMETIC[mixed], reduce_dtype=torch.float32, cast_forward_inputs=False
    )


def sharded_pair(pair: Pair, net: nn.Module, optimizer: Any, accelerator: Accelerator) -> Pair:
    """The same student and teacher after accelerate sharded `net`; a teacher of its own is sharded here."""
    networks = [net]
    if pair.frozen is not None:
        networks.append(fsdp2_prepare_model(accelerator, pair.frozen))
    for each in networks:
        _under_autocast(each, accelerator)

    def load_state(state: Any) -> None:
        pair.load_state(parts_of(state, pair.state()))

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return replace(pair, parameters=parameters, load_state=load_state)


def _check_plugin(plugin: FullyShardedDataParallelPlugin) -> None:
    if plugin.fsdp_version != 2:
        raise UsageError(
            f"tdd needs FSDP2, and this configuration has fsdp_version {plugin.fsdp_version}",
            hint="Set fsdp_version: 2 in it, or take one of docs/distributed.md.",
        )
    if plugin.activation_checkpointing:
        raise UsageError(
            "fsdp_activation_checkpointing would rename the modules that an adapter is saved by",
            hint="Leave it out of the configuration; --set train.gradient_checkpointing=true does the same.",
        )


def _check_recipe(*, merge: bool, optimizer: str) -> None:
    if merge:
        raise RecipeError(
            "student.merge adds the adapter to whole weights, and under FSDP2 no process has them",
            hint="--set student.merge=false: the same student, a little slower on small networks.",
        )
    if optimizer != "adamw":
        raise RecipeError(
            f"train.optimizer {optimizer} does not take sharded parameters",
            hint="--set train.optimizer=adamw",
        )


def _under_autocast(net: nn.Module, accelerator: Accelerator) -> None:
    """Have the network compute as accelerate has it do under DDP; under FSDP2 it leaves autocast out."""
    forward = net.forward

    def mixed(*args: Any, **kwargs: Any) -> Any:
        with accelerator.autocast():
            return forward(*args, **kwargs)

    net.forward = mixed
