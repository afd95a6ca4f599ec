"""Statistics of a set's real pictures, computed once and kept in the user's cache folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tdd_cli.evaluation.cache import cache_folder
from tdd_cli.evaluation.collect import Evidence, Wanted, fill, gather
from tdd_cli.evaluation.networks import Network
from tdd_cli.evaluation.protocol import EvalSet, frame_text, record_hash
from tdd_cli.evaluation.statistics import Moments, mean_kernel, moments
from tdd_cli.evaluation.subjects import Stored
from tdd_cli.files import replacing

SHARD = 512  # rows


class Real:
    """The real pictures of a set under some networks; Frechet's moments are kept beside the features."""

    def __init__(self, found: EvalSet, networks: Sequence[Network]) -> None:
        assert found.reference is not None
        self.reference = found.reference
        self.wanted = Wanted(networks, found.side, samples=False)
        self.folder = cache_folder() / "statistics" / statistics_key(found)
        self._evidence: Evidence | None = None

    def fill(self, worker: tuple[int, int] = (0, 1)) -> Iterator[int]:
        """Compute the features that the cache lacks; yields how many pictures this worker is done with."""
        subject = Stored("real", self.reference.pictures, self.reference.sha256)
        yield from fill(
            subject, len(self.reference.pictures), self.wanted, self.folder, shard=SHARD, worker=worker
        )

    @property
    def evidence(self) -> Evidence:
        """The features and the sizes, read once."""
        if self._evidence is None:
            self._evidence = gather(
                len(self.reference.pictures), self.wanted, self.folder, shard=SHARD, whose="the set"
            )
        return self._evidence

    def features(self, network: Network) -> Tensor:
        """[M, D], float32."""
        return self.evidence.of(network)

    def moments(self, network: Network) -> Moments:
        """Mean and covariance under a network."""
        return Moments(**self._kept("moments", network, lambda x: moments(x)._asdict()))

    def mean_kernel(self, network: Network) -> float:
        """KID's kernel between different real pictures, on average."""
        kept = self._kept(
            "kernel", network, lambda x: {"mean": torch.tensor(mean_kernel(x), dtype=torch.float64)}
        )
        return kept["mean"].item()

    def _kept(
        self, name: str, network: Network, compute: Callable[[Tensor], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What is computed from the features, once for all runs."""
        path = self.folder / f"{name}-{network.key}.safetensors"
        if not path.is_file():
            with replacing(path) as beside:
                save_file(compute(self.features(network)), beside)
        return load_file(path)


def statistics_key(found: EvalSet) -> str:
    """The cache's folder for a set: whatever its features depend on, but for the network."""
    assert found.reference is not None
    return record_hash(
        {
            "set": found.name,
            "version": found.version,
            "reference": found.reference.sha256,
            "picture": frame_text(found.side),
        }
    )[:24]
