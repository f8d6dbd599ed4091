"""How large a ranker is."""

import tempfile
from pathlib import Path

import msgspec
import torch
from torch.utils.flop_counter import FlopCounterMode

from millirec.compress.report import COUNTED, zeros
from millirec.data.tensors import save_tensors
from millirec.models.base import RankInputs
from millirec.models.rankers.checkpoint import RankerCheckpoint


class RankerSize(msgspec.Struct, frozen=True, kw_only=True):
    """`features`, and `values` of them in vocabularies; `numbers` in its parameters, `zeros` among the floats of them;
    `bytes` of the parameters on disk; `multiply_adds` of matrix products for one row.
    """

    features: int
    values: int
    numbers: int
    zeros: int
    bytes: int
    multiply_adds: int


def size_of(checkpoint: RankerCheckpoint) -> RankerSize:
    """Count, and write the parameters once to weigh them."""
    parameters = {name: value.detach().cpu() for name, value in checkpoint.parameters.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parameters.safetensors"
        save_tensors({name: value.numpy() for name, value in parameters.items()}, path)
        size = path.stat().st_size
    schema = checkpoint.featuriser.schema()
    return RankerSize(
        features=len(checkpoint.featuriser.fields),
        values=sum(space.size for space in (*schema.categorical, *schema.lists)),
        numbers=sum(value.numel() for value in parameters.values()),
        zeros=sum(zeros(value) for value in parameters.values()),
        bytes=size,
        multiply_adds=_multiply_adds(checkpoint),
    )


def _multiply_adds(checkpoint: RankerCheckpoint) -> int:
    """Of a row of zeros: products have the same shapes for every row."""
    schema = checkpoint.featuriser.schema()
    inputs = RankInputs(
        torch.zeros(1, len(schema.categorical), dtype=torch.int32),
        torch.zeros(1, len(schema.numbers)),
        torch.zeros(1, sum(space.width for space in schema.lists), dtype=torch.int32),
        torch.zeros(1, len(schema.sequences), max([1, *(s.length for s in schema.sequences)]), dtype=torch.int32),
    )
    counter = FlopCounterMode(display=False, custom_mapping=COUNTED)
    with torch.no_grad(), counter:  # the counter follows parameters, which inference mode forbids
        checkpoint.network()(inputs)
    return counter.get_total_flops() // 2
