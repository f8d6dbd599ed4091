"""Codes of items from who took what: what a product table needs before it can be trained.

Petrov and Macdonald, "RecJPQ: Training Large-Catalogue Sequential Recommenders", WSDM 2024: a latent dimension of the
user-item matrix for each code, its values cut into bins that hold equally many items.
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from torch import nn

from millirec.data.codes import Bytes
from millirec.data.dataset import TRAIN, Dataset
from millirec.models.layers.table import ProductTable
from millirec.train.machine import generator

_SVD, _TIES = 31, 32  # streams of random numbers


def prepare_table(network: nn.Module, dataset: Dataset, seed: int) -> None:
    """Give a fresh network the item codes that rest while it is trained; other tables than a product one need none."""
    item = getattr(network, "item", None)
    if isinstance(item, ProductTable):
        item.assign(interaction_codes(dataset, len(item.centroids), item.bits, seed))


def interaction_codes(dataset: Dataset, codes: int, bits: int, seed: int) -> Bytes:
    """Numbers below 2 ** `bits`, uint8 (n_items + 1, codes), from the training events; row 0 is zeros."""
    values = item_factors(dataset, codes, seed)
    out = np.zeros((len(values) + 1, codes), np.uint8)
    out[1:] = equal_bins(values, 2**bits, generator(seed, _TIES))
    return out


def item_factors(dataset: Dataset, rank: int, seed: int) -> NDArray[np.float64]:
    """The right singular vectors of the matrix "user took item", (n_items, rank), the strongest first.

    Zeros where the matrix has no more dimensions.
    """
    log = dataset.interactions.take(dataset.roles == TRAIN)
    shape = (len(dataset.users), len(dataset.items))
    matrix = sp.coo_matrix((np.ones(len(log)), (log.users - 1, log.items - 1)), shape).tocsr()
    matrix.data[:] = 1.0  # once or often: taken
    few = min(shape)
    if few <= max(2 * rank, 32):
        found = np.linalg.svd(matrix.toarray(), full_matrices=False)[2][:rank]
    else:
        start = generator(seed, _SVD).standard_normal(few)
        _, values, vectors = svds(matrix, k=rank, v0=start)
        found = vectors[np.argsort(-values)]
    out = np.zeros((shape[1], rank))
    out[:, : len(found)] = found.T
    return out


def equal_bins(values: NDArray[np.float64], levels: int, rng: np.random.Generator) -> Bytes:
    """Which of `levels` bins each of the values (n, m) is in, uint8 (n, m): lower values in lower bins.

    The bins of a column hold equally many values, to within one; equal values are parted at random.
    """
    order = np.lexsort((rng.random(values.shape), values), axis=0)
    bins = (np.arange(len(values)) * levels // len(values)).astype(np.uint8)
    out = np.empty(values.shape, np.uint8)
    np.put_along_axis(out, order, bins[:, None], axis=0)
    return out
