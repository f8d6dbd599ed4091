"""A ranker as it is served: one user and many candidates, what belongs to one side computed once.

`rows` is the graph of the logits; `items`, where a ranker has one, is a graph of what is fixed for an item, so that a
server computes it once for the whole catalogue.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.data.features import Schema, Sides
from millirec.data.features.live import Columns
from millirec.models.base import RankInputs
from millirec.models.export import DYNAMO, difference, one_thread, written
from millirec.models.graph import Graph
from millirec.models.layers.linear import MIDDLE, Int8Linear
from millirec.models.rankers.dnn import DNN
from millirec.models.rankers.fields import FieldVectors, mean_of
from millirec.models.rankers.forest import with_trees
from millirec.models.rankers.trees import Trees

OUTPUT, PART, ASKED = "logits", "item_part", "asked"
ITEM = ("item_ids", "item_numbers", "item_lists")
USER = ("user_ids", "user_numbers", "user_lists", "sequences", "shares")
ROW = ("row_ids", "row_numbers")
_LEVELS, _ZERO = 63, "signed_middle"


class Served(NamedTuple):
    """The graphs of a ranker. `rows` reads `PART` in place of the `ITEM` columns where there is a graph `items`."""

    rows: Graph
    items: Graph | None


def export_ranker(network: nn.Module, sides: Sides, *, int8: bool = False) -> Served:
    """The graphs of a ranker in evaluation mode; inputs are those of `ITEM`, `USER` and `ROW` that have columns.

    User columns have one row, the others any number. `int8`: hidden layers compute in integers, inputs scaled as they
    come. Raises ConfigError when no feature depends on the item, ArtifactError when the network cannot be written so.
    """
    schema = network.schema
    if not (any(sides.item) or any(sides.row)):
        raise ConfigError(
            "$.features: all are the user's or the moment's, so all candidates would score alike",
            "train the ranker with features of items",
        )
    example = _example(schema, sides, 3)  # type: ignore[arg-type]
    if isinstance(network, DNN):
        first = _First(network.vectors, network.hidden[0], sides)  # type: ignore[arg-type]
        own = {name: example.pop(name) for name in ITEM}
        rows, items = _SplitRows(network, first), None
        if any(sides.item):
            items = _graph(_ItemPart(first), "items", own, PART)
            with torch.inference_mode():
                example[PART] = _ItemPart(first)(own).clone()
        return Served(_rows_graph(rows, example, int8=int8), items)
    example.pop("shares")
    if isinstance(network, Trees):
        if int8:
            raise ConfigError("trees have no layers to compute in int8", "pack them with weights fp32")
        reader = _graph(_WholeRows(_Asked(network), sides), "rows", example, ASKED)
        return Served(with_trees(reader, network, ASKED, OUTPUT), None)
    whole = _WholeRows(network, sides)
    return Served(_rows_graph(whole, example, int8=int8), None)


def _rows_graph(module: nn.Module, example: dict[str, Tensor], *, int8: bool) -> Graph:
    if not int8:
        return _graph(module, "rows", example, OUTPUT)
    return _signed(_graph(_rounded(deepcopy(module)), "rows", example, OUTPUT))


def _signed(graph: Graph) -> Graph:
    """With the weights' bytes signed: where a processor has dot products of bytes, those are twice as fast.

    Elsewhere sums of two products saturate at 16 bits, which weights of `_LEVELS` levels cannot reach.
    """
    proto, tensors = onnx.load_from_string(graph.content), dict(graph.tensors)
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    products = [node for node in proto.graph.node if node.op_type == "MatMulInteger"]
    for node in products:
        tensor = held[node.input[1]]
        codes = tensors[tensor.name] if tensor.name in tensors else onnx.numpy_helper.to_array(tensor)
        signed = (codes.astype(np.int16) - MIDDLE).astype(np.int8)
        if tensor.name in tensors:
            tensors[tensor.name], tensor.data_type = signed, onnx.TensorProto.INT8
        else:
            tensor.CopyFrom(onnx.numpy_helper.from_array(signed, tensor.name))
        node.input[3] = _ZERO
    if products:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.int8), _ZERO))
    return Graph(graph.name, proto.SerializeToString(), tensors)


def parity_error(network: nn.Module, served: Served, sides: Sides) -> float:
    """The largest difference between graphs and network over random rows, relative to the largest logit.

    NaN in either counts as infinite.
    """
    schema: Schema = network.schema  # type: ignore[assignment]
    worst = 0.0
    for seed, n in enumerate((1, 2, 50)):
        feed = {name: value.numpy() for name, value in _example(schema, sides, n, seed).items()}
        inputs = RankInputs(*map(torch.from_numpy, assembled(feed, schema, sides)))
        with torch.inference_mode(), one_thread():
            want = network(inputs).numpy()
        worst = max(worst, difference(run(served, feed), want))
    return worst


def run(served: Served, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Logits (n,) by the graphs alone, from arrays by the names of all columns."""
    if served.items is not None:
        session = served.items.session()
        own = {tensor.name: feed[tensor.name] for tensor in session.get_inputs()}
        feed = feed | {PART: session.run([PART], own)[0]}
    session = served.rows.session()
    logits: NDArray[np.float32] = session.run(
        [OUTPUT], {tensor.name: feed[tensor.name] for tensor in session.get_inputs()}
    )[0]
    return logits


def assembled(feed: dict[str, NDArray[Any]], schema: Schema, sides: Sides) -> tuple[NDArray[Any], ...]:
    """The four arrays of `RankInputs` from columns by sides."""
    n = len(feed[ROW[0]])
    ids = np.zeros((n, len(schema.categorical)), np.int32)
    numbers = np.zeros((n, len(schema.numbers)), np.float32)
    lists = np.zeros((n, sum(space.width for space in schema.lists)), np.int32)
    for name, side in _named(sides):
        ids[:, side.ids], numbers[:, side.numbers] = feed[f"{name}_ids"], feed[f"{name}_numbers"]
        if side.lists:
            lists[:, _list_columns(schema, side)] = feed[f"{name}_lists"]
    return ids, numbers, lists, np.repeat(feed["sequences"], n, axis=0)


def _named(sides: Sides) -> list[tuple[str, Columns]]:
    return list(zip(sides._fields, sides, strict=True))


def _list_columns(schema: Schema, side: Columns) -> list[int]:
    """Where the values of a side's multi-valued features stand among those of all."""
    starts = np.cumsum([0, *(space.width for space in schema.lists)]).tolist()
    return [column for place in side.lists for column in range(starts[place], starts[place + 1])]


def _example(schema: Schema, sides: Sides, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Random columns of all sides."""
    rng = np.random.default_rng(seed)
    out: dict[str, NDArray[Any]] = {}
    for name, side in _named(sides):
        rows = 1 if name == "user" else n
        sizes = [schema.categorical[place].size for place in side.ids]
        widths = [(schema.lists[place].size, schema.lists[place].width) for place in side.lists]
        out[f"{name}_ids"] = _ids(rng, rows, sizes)
        out[f"{name}_numbers"] = rng.normal(size=(rows, len(side.numbers))).astype(np.float32)
        if name != "row":
            out[f"{name}_lists"] = _ids(rng, rows, [size for size, width in widths for _ in range(width)])
    length = max([2, *(space.length for space in schema.sequences)]) if seed else 4
    sequences = [_ids(rng, 1, [schema.categorical[space.of].size] * length) for space in schema.sequences]
    found = np.stack(sequences, axis=1) if sequences else np.zeros((1, 0, length), np.int32)
    for i in range(found.shape[1]):
        found[:, i, int(rng.integers(0, length + 1)) :] = 0
    present = (found > 0).astype(np.float32)
    out["sequences"], out["shares"] = found, present / np.maximum(present.sum(axis=2, keepdims=True), 1)
    return {name: torch.from_numpy(array) for name, array in out.items()}


def _ids(rng: np.random.Generator, n: int, sizes: Sequence[int]) -> NDArray[np.int32]:
    columns = [rng.integers(0, size + 1, n) for size in sizes]
    return np.stack(columns, axis=1).astype(np.int32) if columns else np.zeros((n, 0), np.int32)


def _graph(module: nn.Module, name: str, example: dict[str, Tensor], output: str) -> Graph:
    """The graph of a module whose arguments without columns are left out."""
    kept = {key: value for key, value in example.items() if value.shape[1]}
    shapes: dict[str, dict[int, str]] = {}
    for key in kept:
        shapes[key] = {2: "length"} if key in ("sequences", "shares") else {} if key in USER else {0: "rows"}
    settings = {
        "kwargs": kept,
        "input_names": list(kept),
        "output_names": [output],
        "dynamic_shapes": shapes,
        **DYNAMO,
    }
    return written(_Named(module), name, settings)


class _Named(nn.Module):
    """A module of columns by name, as the exporter wants it: with every argument spelt out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        item_ids: Tensor | None = None,
        item_numbers: Tensor | None = None,
        item_lists: Tensor | None = None,
        user_ids: Tensor | None = None,
        user_numbers: Tensor | None = None,
        user_lists: Tensor | None = None,
        sequences: Tensor | None = None,
        shares: Tensor | None = None,
        row_ids: Tensor | None = None,
        row_numbers: Tensor | None = None,
        item_part: Tensor | None = None,
    ) -> Tensor:
        item, user = (item_ids, item_numbers, item_lists), (user_ids, user_numbers, user_lists, sequences, shares)
        told = zip((*ITEM, *USER, *ROW, PART), (*item, *user, row_ids, row_numbers, item_part), strict=True)
        out: Tensor = self.module({name: tensor for name, tensor in told if tensor is not None})
        return out


class _WholeRows(nn.Module):
    """Any ranker: columns are put in the order of the schema; sequences keep their one row."""

    def __init__(self, network: nn.Module, sides: Sides) -> None:
        super().__init__()
        self.network = network
        schema: Schema = network.schema  # type: ignore[assignment]
        lists = [_list_columns(schema, side) for side in sides]
        self.n_lists = sum(map(len, lists))
        self.register_buffer("ids", _order([side.ids for side in sides]))
        self.register_buffer("numbers", _order([side.numbers for side in sides]))
        self.register_buffer("lists", _order(lists))

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        n = next(value.shape[0] for name, value in given.items() if name not in USER)
        some = next(iter(given.values()))
        ids, numbers, lists = (
            self._joined([given.get(f"{side}_{kind}") for side in Sides._fields], n, order)
            for kind, order in (("ids", self.ids), ("numbers", self.numbers), ("lists", self.lists))
        )
        whole = torch.int32
        inputs = RankInputs(
            some.new_zeros(n, 0, dtype=whole) if ids is None else ids,
            some.new_zeros(n, 0, dtype=torch.float32) if numbers is None else numbers,
            some.new_zeros(n, 0, dtype=whole) if lists is None else lists,
            given.get("sequences", some.new_zeros(1, 0, 1, dtype=whole)),
        )
        logits: Tensor = self.network(inputs)
        return logits

    @staticmethod
    def _joined(parts: list[Tensor | None], n: Any, order: Any) -> Tensor | None:
        there = [part.expand(n, -1) if i == 1 else part for i, part in enumerate(parts) if part is not None]
        return torch.cat(there, dim=1).index_select(1, order) if there else None


class _Asked(nn.Module):
    """What trees ask of each row, in the place of what they answer."""

    def __init__(self, trees: Trees) -> None:
        super().__init__()
        self.trees, self.schema = trees, trees.schema

    def forward(self, inputs: RankInputs) -> Tensor:
        return self.trees.read(inputs)


def _order(columns: Sequence[Sequence[int]]) -> Tensor:
    """Where each column of the schema stands among those of the sides, side by side."""
    placed = [place for side in columns for place in side]
    return torch.tensor(np.argsort(np.array(placed, np.int64)), dtype=torch.int64)


class _First(nn.Module):
    """The first hidden layer of a deep network as a sum of parts, one a side. A number's vector and its weights are one
    row of weights."""

    def __init__(self, vectors: FieldVectors, first: nn.Linear, sides: Sides) -> None:
        super().__init__()
        self.vectors, self.sides, self.bias = vectors, sides, first.bias
        weight = first.weight.detach().T.reshape(vectors.fields, vectors.width, -1)  # (F, d, H)
        n_ids, n_lists = len(vectors.bases), vectors.plain - len(vectors.bases) - len(vectors.numbers)
        ids, lists, numbers, sequences = weight.tensor_split([n_ids, n_ids + n_lists, vectors.plain])
        folded = torch.einsum("fd,fdh->fh", vectors.numbers.detach(), numbers)
        starts = np.cumsum([0, *vectors.widths]).tolist()
        for name, side in _named(sides):
            of_ids, of_lists = ids[list(side.ids)].flatten(0, 1), lists[list(side.lists)].flatten(0, 1)
            own = [of_ids, folded[list(side.numbers)], of_lists]
            if name == "user":
                own.append(sequences.flatten(0, 1))
            columns = [column for place in side.lists for column in range(starts[place], starts[place + 1])]
            self.register_buffer(f"{name}_bases", vectors.bases[list(side.ids)])
            self.register_buffer(f"{name}_list_bases", vectors.list_bases[columns])
            self.register_buffer(f"{name}_weight", torch.cat(own).contiguous())

    def part(self, name: str, given: dict[str, Tensor], bias: Tensor | None = None) -> Tensor | None:
        """What the columns of one side add (rows, H), and the bias; None where it has no columns."""
        read = self._read(name, given)
        if not read:
            return None
        x = torch.cat(read, dim=1) if len(read) > 1 else read[0]
        weight = getattr(self, f"{name}_weight")
        return x @ weight if bias is None else torch.addmm(bias, x, weight)

    def _read(self, name: str, given: dict[str, Tensor]) -> list[Tensor]:
        """Vectors and numbers of one side, (rows, columns) each, in the order of its weights."""
        out = []
        if (ids := given.get(f"{name}_ids")) is not None and ids.shape[1]:
            out.append(self.vectors.table(ids + getattr(self, f"{name}_bases")).flatten(1))
        if (numbers := given.get(f"{name}_numbers")) is not None and numbers.shape[1]:
            out.append(numbers)
        if (lists := given.get(f"{name}_lists")) is not None and lists.shape[1]:
            vectors, present = self.vectors.table(lists + getattr(self, f"{name}_list_bases")), lists > 0
            widths = [self.vectors.widths[place] for place in getattr(self.sides, name).lists]
            spans = zip(torch.split(vectors, widths, 1), torch.split(present, widths, 1), strict=True)
            out.append(torch.cat([mean_of(values, there) for values, there in spans], dim=1))
        if name == "user" and (sequences := given.get("sequences")) is not None and sequences.shape[1]:
            events = self.vectors.table(sequences + self.vectors.sequence_bases[:, None])
            out.append((given["shares"].unsqueeze(2) @ events).flatten(1))
        return out


class _ItemPart(nn.Module):
    def __init__(self, first: _First) -> None:
        super().__init__()
        self.first = first

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        part = self.first.part("item", given)
        assert part is not None  # noqa: S101
        return part


class _SplitRows(nn.Module):
    def __init__(self, network: DNN, first: _First) -> None:
        super().__init__()
        self.first, self.hidden, self.output = first, nn.Sequential(*list(network.hidden)[1:]), network.output

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        user = self.first.part("user", given, self.first.bias)
        user = self.first.bias if user is None else user
        row = self.first.part("row", given, user)
        x = user if row is None else row
        x = x + given[PART] if PART in given else x
        logits: Tensor = self.output(self.hidden(x)).squeeze(1)
        return logits


def _rounded(module: nn.Module) -> nn.Module:
    """The same with hidden layers of bytes; what makes the one logit stays as it is."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and child.out_features > 1:
            setattr(module, name, Int8Linear.of(child, _LEVELS))
        else:
            _rounded(child)
    return module
