"""Product quantisation of item vectors: a few codes an item, and the sub-vectors that they stand for.

Jegou et al., "Product Quantization for Nearest Neighbor Search", PAMI 2011; trained together with the network by
Petrov and Macdonald, "RecJPQ: Training Large-Catalogue Sequential Recommenders", WSDM 2024.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.compress.clusters import clusters, means
from millirec.compress.embedding import NewTable, dense_vectors, item_weights, replaced_table
from millirec.compress.workshop import Workshop
from millirec.data.codes import Bytes
from millirec.data.errors import ConfigError
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.models.layers.table import Product, ProductTable
from millirec.train.config import TrainConfig
from millirec.train.item_codes import interaction_codes, prepare_table
from millirec.train.machine import generator
from millirec.train.trainable import check_trainable

_CLUSTERS = 33  # stream of random numbers


class ProductQuantize(NewTable, frozen=True, kw_only=True, tag_field="kind", tag="product-quantize"):
    """`codes` codes of `bits` bits an item, found by k-means among the parts of the trained item vectors.

    Where scores are cosines, directions are quantised, scaled to the mean length of the vectors.
    """

    codes: int = 16
    bits: Literal[4, 8] = 4

    def table(self) -> Product:
        """The config of the new table."""
        return Product(codes=self.codes, bits=self.bits)

    def fit(self, table: ProductTable, checkpoint: Checkpoint, workshop: Workshop) -> None:
        """Codes and sub-vectors by k-means."""
        vectors, weights = dense_vectors(checkpoint, table)[1:], item_weights(checkpoint, self.power)[1:]
        cluster(table, vectors, weights, workshop.machine.seed)


class JointProduct(NewTable, frozen=True, kw_only=True, tag_field="kind", tag="joint-product"):
    """Codes that rest while their sub-vectors are trained together with the network.

    `codes_from`: "svd" = from who took what, as RecJPQ has it; "vectors" = from the trained item vectors, by k-means.
    A sub-vector starts as the mean of those of the items that share its code, or at random when the network is
    trained anew (`fresh`).
    """

    codes: int = 16
    bits: Literal[4, 8] = 4
    codes_from: Literal["svd", "vectors"] = "svd"
    fresh: bool = False
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes_from not in ("svd", "vectors"):
            raise ConfigError(f"codes_from = {self.codes_from!r}", "use 'svd' or 'vectors'")

    def table(self) -> Product:
        """The config of the new table."""
        return Product(codes=self.codes, bits=self.bits)

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """As `NewTable.rewritten`; what is trained anew from `svd` codes may have had any table."""
        if not self.fresh or self.codes_from == "vectors":
            return super().rewritten(config, n_items)
        new = replaced_table(config, self.table())
        check_trainable(new, self.train, at="")
        build(new, 1)
        return new

    def fitted(self, config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
        """As `NewTable.fitted`; what is trained anew finds its own lengths."""
        return config if self.fresh else super().fitted(config, checkpoint)

    def fit(self, table: ProductTable, checkpoint: Checkpoint, workshop: Workshop) -> None:
        """Codes as `codes_from` says, sub-vectors as means."""
        seed, weights = workshop.machine.seed, item_weights(checkpoint, self.power)[1:]
        vectors = dense_vectors(checkpoint, table)[1:]
        if self.codes_from == "vectors":
            cluster(table, vectors, weights, seed)
            return
        numbers = interaction_codes(workshop.dataset_of(checkpoint), self.codes, self.bits, seed)
        table.assign(numbers)
        for i, rows in enumerate(_parts(table, vectors)):
            table.centroids[i] = torch.from_numpy(means(rows, numbers[1:, i], 2**self.bits, weights))

    def parameters(self, checkpoint: Checkpoint, workshop: Workshop, config: ModelConfig) -> dict[str, Tensor]:
        """What training begins with."""
        if not self.fresh:
            return super().parameters(checkpoint, workshop, config)
        workshop.machine.prepare()
        network = build(config, len(checkpoint.catalog))
        item: ProductTable = network.item  # type: ignore[assignment]
        if self.codes_from == "vectors":
            started = item.centroids.detach().clone()
            with torch.no_grad():
                self.fit(item, checkpoint, workshop)
                item.centroids.copy_(started)
        else:
            prepare_table(network, workshop.dataset_of(checkpoint), workshop.machine.seed)
        return {name: value.detach() for name, value in network.state_dict().items()}


def cluster(table: ProductTable, vectors: Tensor, weights: NDArray[np.float32], seed: int) -> None:
    """Give a table codes and sub-vectors that come near to `vectors` (n, d) of its rows 1..n; `weights` (n,)."""
    numbers: Bytes = np.zeros((len(table.codes), len(table.centroids)), np.uint8)
    for i, rows in enumerate(_parts(table, vectors)):
        found = clusters(rows, 2**table.bits, weights, generator(seed, _CLUSTERS, i))
        numbers[1:, i], table.centroids[i] = found.numbers, torch.from_numpy(found.centres)
    table.assign(numbers)


def _parts(table: ProductTable, vectors: Tensor) -> list[NDArray[np.float32]]:
    """The parts (n, d / M) of the vectors (n, d) that each code stands for."""
    return [np.ascontiguousarray(part) for part in np.split(vectors.numpy(), len(table.centroids), axis=1)]
