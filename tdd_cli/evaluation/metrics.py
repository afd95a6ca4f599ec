"""METRICS: figures from evidence. A metric is one function and one entry at the end of this file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Generator
from torch.nn import functional as F

from tdd_cli.errors import DataError, UsageError
from tdd_cli.evaluation import statistics
from tdd_cli.evaluation.collect import Evidence
from tdd_cli.evaluation.networks import Network
from tdd_cli.evaluation.reference import Real

SEED = 0  # of every resampling


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    environment: str = ""  # where it was measured, a key of Result.environments


@dataclass(frozen=True)
class Case:
    """All that a metric may look at, of one entry."""

    ours: Evidence
    captions: Sequence[str]  # of all rows asked, with the set's prefix
    calls: int | None  # network calls a picture
    network: Network | None  # the metric's own
    real: Real | None
    teacher: Evidence | None


@dataclass(frozen=True)
class Column:
    """How one figure of a metric is shown."""

    title: str
    better: Literal["lower", "higher", "neither"]
    digits: int = 2
    ratio: bool = True  # whether a change is told in percent; else as a difference: of what may be 0 or less


@dataclass(frozen=True)
class Metric:
    """What a metric needs, gives and computes."""

    compute: Callable[[Case], dict[str, Figure]]
    columns: Mapping[str, Column]  # a figure's name -> how it is shown
    network: str | None = None  # default
    needs: Literal["real", "teacher", None] = None
    least: int = 1  # pictures
    what: str = ""  # exactly what is computed, for the record


def fid(case: Case, name: str) -> dict[str, Figure]:
    """Frechet distance between the clouds of features."""
    network, real = _both(case)
    return {name: Figure(statistics.frechet(case.ours.of(network), real.moments(network)))}


def kid(case: Case) -> dict[str, Figure]:
    """1000 times the unbiased polynomial MMD^2."""
    network, real = _both(case)
    ours, theirs = case.ours.of(network), real.features(network)
    value, shares = statistics.polynomial_mmd(ours, theirs, real.mean_kernel(network))
    around = _mean(1000 * shares)
    assert around.low is not None
    assert around.high is not None
    apart = 1000 * value - around.value
    return {"kid": Figure(1000 * value, around.low + apart, around.high + apart)}


def cmmd(case: Case) -> dict[str, Figure]:
    """Gaussian MMD^2 between normalised embeddings."""
    network, real = _both(case)
    ours, theirs = (F.normalize(x, dim=1) for x in (case.ours.of(network), real.features(network)))
    return {"cmmd": Figure(statistics.gaussian_mmd(ours, theirs))}


def inception_score(case: Case) -> dict[str, Figure]:
    """Mean over ten splits, with their standard deviation."""
    network = case.network
    assert network is not None
    assert network.probabilities is not None
    features = case.ours.of(network).to(next(network.net.parameters()).device)
    with torch.no_grad():
        scores = statistics.inception_score(network.probabilities(features).cpu())
    mean, spread = scores.mean().item(), scores.std().item()
    return {"is": Figure(mean, mean - spread, mean + spread)}


def clip(case: Case) -> dict[str, Figure]:
    """100 times the mean cosine between a picture and its caption."""
    network = case.network
    assert network is not None
    assert network.embed is not None
    with torch.no_grad():
        device = next(network.net.parameters()).device
        pictures = network.embed(case.ours.of(network).to(device)).cpu()
        texts = network.texts([case.captions[row] for row in case.ours.rows.tolist()])
    cosines = 100 * (pictures * texts).sum(1)
    return {"clip": _mean(cosines)}


def teacher(case: Case) -> dict[str, Figure]:
    """From the same noise: PSNR of pixels, and distance of features over that of unrelated pictures."""
    assert case.teacher is not None
    assert case.ours.psnr is not None
    assert case.network is not None
    row_of = {row: i for i, row in enumerate(case.teacher.rows.tolist())}
    theirs = case.teacher.of(case.network)[[row_of[row] for row in case.ours.rows.tolist()]]
    apart = (case.ours.of(case.network) - theirs).norm(dim=1)
    unrelated = (theirs - theirs.roll(1, 0)).norm(dim=1).mean()
    return {"psnr": _mean(case.ours.psnr), "distance": _mean(apart / unrelated)}


def speed(case: Case) -> dict[str, Figure]:
    """What a picture costs: the middle of the seconds, so that the first batch's warm-up does not count."""
    if case.calls is None:  # nobody drew it here
        return {}
    assert case.ours.seconds is not None
    seconds = case.ours.seconds.median().item()
    found = {"seconds": seconds, "calls": float(case.calls), "per_second": 1 / max(seconds, 1e-9)}
    if case.ours.peak:
        found["memory"] = case.ours.peak / 2**30
    return {name: Figure(value) for name, value in found.items()}


def check(metric: str, count: int, *, real: int | None, whose: str = "drawn") -> None:
    """DataError where there are too few pictures for a metric, or not what it needs.

    count, real  how many are measured, and how many real ones there are; None for a set without
    """
    needs, least = METRICS[metric].needs, METRICS[metric].least
    if needs == "real" and real is None:
        raise DataError(
            f"{metric} compares with real pictures, and the set has none",
            hint="Use a set with pictures, or the metrics clip, teacher and speed.",
        )
    if needs == "real" and real is not None and real < least:
        raise DataError(
            f"{metric} needs at least {least} real pictures, and the set has {real} that can be read",
            hint="Use a larger set.",
        )
    if count < least:
        raise DataError(
            f"{metric} needs at least {least} pictures, and there are {count} of {whose}",
            hint="Raise --n where the set has more captions; else use a larger set.",
        )


def check_network(metric: str, network: Network) -> None:
    """UsageError where a network cannot do what a metric needs of it."""
    if metric == "is" and network.probabilities is None:
        raise UsageError(
            f"is needs class probabilities, which {network.name} has not",
            hint="It is made for Inception: --features is=inception.",
        )
    if metric == "clip" and network.embed_texts is None:
        raise UsageError(
            f"clip needs a network that reads captions, which {network.name} does not",
            hint="Give it a CLIP: --features clip=MODEL.",
        )


def _both(case: Case) -> tuple[Network, Real]:
    assert case.network is not None
    assert case.real is not None
    return case.network, case.real


def _mean(values: torch.Tensor) -> Figure:
    low, high = statistics.interval_of_mean(values, Generator().manual_seed(SEED))
    return Figure(values.double().mean().item(), low, high)


DINO, CLIP = "facebook/dinov2-large", "openai/clip-vit-large-patch14"
METRICS: dict[str, Metric] = {
    "fid": Metric(
        partial(fid, name="fid"), {"fid": Column("FID", "lower")}, "inception", "real", 10,
        "Frechet distance, unbiased covariances",
    ),
    "kid": Metric(
        kid, {"kid": Column("KID x1000", "lower", ratio=False)}, "inception", "real", 10,
        "1000 x unbiased polynomial MMD^2, all pairs; 95 % by bootstrap of first-order shares",
    ),
    "is": Metric(
        inception_score, {"is": Column("IS", "higher")}, "inception", None, 10,
        "exp of the mutual information, mean and standard deviation of 10 splits",
    ),
    "fd-dinov2": Metric(
        partial(fid, name="fd-dinov2"), {"fd-dinov2": Column("FD-DINOv2", "lower")}, DINO, "real", 10,
        "Frechet distance, unbiased covariances",
    ),
    "cmmd": Metric(
        cmmd, {"cmmd": Column("CMMD", "lower", 3)}, f"{CLIP}-336", "real", 10,
        "1000 x Gaussian MMD^2, sigma 10, normalised embeddings",
    ),
    "clip": Metric(
        clip, {"clip": Column("CLIP", "higher")}, CLIP, None, 1,
        "100 x mean cosine of picture and caption; 95 % by bootstrap",
    ),
    "teacher": Metric(
        teacher,
        {
            "psnr": Column("PSNR to teacher", "higher", ratio=False),
            "distance": Column("distance to teacher", "lower", 3),
        },
        "inception", "teacher", 2,
        "same captions and noise: PSNR of pixels; Euclidean distance of features over that of the teacher's "
        "neighbouring pictures; 95 % by bootstrap",
    ),
    "speed": Metric(
        speed,
        {
            "calls": Column("calls", "neither", 0),
            "seconds": Column("s/picture", "lower", 3),
            "per_second": Column("pictures/s", "higher"),
            "memory": Column("memory, GiB", "lower"),
        },
        what="network calls and seconds a picture (median; drawing only); peak memory of the GPU while "
        "drawing, or of the whole process where there is none",
    ),
}  # fmt: skip

COLUMNS = {name: column for metric in METRICS.values() for name, column in metric.columns.items()}
"""How every figure is shown, in the order of tables."""
