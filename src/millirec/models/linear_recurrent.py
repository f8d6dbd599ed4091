"""LinearRecurrent: a deep recommender whose memory of a user is a few kilobytes, however long the history.

Gated linear attention with a short convolution, in the family of LRURec (Yue et al., WSDM 2024) and of the linear
HSTU: trained in parallel over a sequence, served one event at a time. Decays depend on the event and on the time
that follows it, and each place knows when its question is put.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, NetworkConfig
from millirec.models.layers import initial
from millirec.models.layers.checks import check_sequence
from millirec.models.layers.clock import BUCKETS, asked_at, buckets
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Group, Part, Slice, Structure, columns, item_columns, outputs, rows, with_width
from millirec.models.layers.recurrence import memory, mix, mix_chunked, mix_step
from millirec.models.layers.scale import user_side
from millirec.models.layers.sizes import Sizes, head_size, hidden_size
from millirec.models.layers.table import item_table, output_vectors

_STATE_BYTES = 8192
_SLOWEST, _FASTEST = 5.0, 0.5  # logits of the heads' decays at the start: keep .993 and .62 a step
_LEAST = -6.0  # of the logarithm of a decay
_OUTPUTS = ("out.weight", "out.bias", "feed_out.weight", "feed_out.bias")  # make what a block adds


class LinearRecurrentConfig(NetworkConfig, frozen=True, kw_only=True, tag_field="kind", tag="linear-recurrent"):
    """Hyper-parameters of the linear recurrent model.

    A block's state is `heads` x `key_dim` x `head_dim` numbers, and `kernel` - 1 rows of `embedding_dim` for its
    convolution; all blocks together may take 8 KB. `head_dim`: None = `embedding_dim` / `heads`. `feed_forward` is a
    multiple of `embedding_dim`. `time` reads the times of the events and of the question. `temperature`: scores are
    cosines divided by it; None = inner products. `max_length` bounds what is read at once, not what a state remembers.
    """

    embedding_dim: int = 64
    blocks: int = 2
    heads: int = 4
    key_dim: int = 12
    kernel: int = 4
    feed_forward: int | float = 2
    dropout: float = 0.2
    max_length: int = 200
    head_dim: int | None = None
    time: bool = True
    temperature: float | None = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sequence(self, "embedding_dim", "blocks", "heads", "key_dim", "kernel")
        _ = self.neurons  # refuses sizes that do not fit
        if 4 * self.blocks * self.block_state > _STATE_BYTES:
            raise ConfigError(
                f"$.model: the state takes {4 * self.blocks * self.block_state:,} bytes, at most are {_STATE_BYTES:,}",
                "lower `key_dim`, `embedding_dim` or `blocks`",
            )

    @property
    def block_state(self) -> int:
        """Numbers in the state of one block."""
        return self.key_dim * self.heads * self.head_size + (self.kernel - 1) * self.embedding_dim

    @property
    def head_size(self) -> int:
        """Numbers in the value of a head."""
        return head_size(self.embedding_dim, self.heads, self.head_dim)

    @property
    def neurons(self) -> int:
        """Neurons in the feed-forward layer."""
        return hidden_size(self.embedding_dim, self.feed_forward)

    def structure(self) -> Structure:
        """As `NetworkConfig.structure`: heads, keys, feed_forward, width, blocks."""
        width, numbers, items = self.embedding_dim, range(self.blocks), item_columns(self.table, self.embedding_dim)
        keys = tuple(_key(f"blocks.{i}.", self, head) for i in numbers for head in range(self.heads))
        parts = {
            "heads": Part(self.heads, tuple(_heads(f"blocks.{i}.", self) for i in numbers)),
            "keys": Part(self.key_dim, keys),
            "feed_forward": Part(self.neurons, tuple(_feed_forward(f"blocks.{i}.", self.neurons) for i in numbers)),
        }
        within = (piece for i in numbers for piece in _width(f"blocks.{i}.", width))
        others = (columns("gap.weight", width, sends=True), *outputs("norm", width), *within)
        scaled = items[0].name if items else None
        return Structure(with_width(parts, items, others), self.blocks, _OUTPUTS, scaled=scaled)

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> "LinearRecurrentConfig":
        """As `NetworkConfig.shrunk`."""
        sizes = Sizes(self.embedding_dim, self.heads, self.head_size, self.neurons).shrunk(counts)
        return replace(self, blocks=len(blocks), key_dim=counts.get("keys", self.key_dim), **sizes)


def _heads(block: str, config: LinearRecurrentConfig) -> Group:
    heads, size = config.heads, config.head_size
    return (
        rows(f"{block}query_key.weight", heads, repeats=2, width=config.key_dim),
        rows(f"{block}value_gate.weight", heads, repeats=2, width=size),
        *outputs(f"{block}decay", heads),
        columns(f"{block}gap_decay", heads),
        rows(f"{block}mixed_scale", heads, width=size),
        columns(f"{block}out.weight", heads, width=size, sends=True),
    )


def _key(block: str, config: LinearRecurrentConfig, head: int) -> Group:
    """The numbers of one head's queries and keys."""
    query = rows(f"{block}query_key.weight", config.key_dim, sends=True)
    start = head * config.key_dim
    key = config.heads * config.key_dim
    return (
        query._replace(places=query.places + start),
        query._replace(places=query.places + start + key, sends=False),
    )


def _feed_forward(block: str, neurons: int) -> Group:
    hidden = outputs(f"{block}feed_in", neurons, repeats=2)
    return (*hidden, columns(f"{block}feed_out.weight", neurons, sends=True))


def _width(block: str, width: int) -> Iterable[Slice]:
    for name in ("norm", "feed_norm"):
        yield from outputs(block + name, width)
    for name in ("out", "feed_out"):
        yield from outputs(block + name, width, sends=True)
    for name in ("convolution", "query_key.weight", "value_gate.weight", "decay.weight", "feed_in.weight"):
        yield columns(block + name, width)


class _Parts(NamedTuple):
    """`recurrent`: query, key (B, H, L, k), value (B, H, L, v), log decay (B, H, L). `gate` (B, L, d)."""

    recurrent: tuple[Tensor, Tensor, Tensor, Tensor]
    gate: Tensor


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """Of x (B, L, d) the rows at places `at` int64 (B,), (B, 1, d)."""
    return x.gather(1, at[:, None, None].expand(-1, 1, x.shape[2]))


class RecurrentBlock(nn.Module):
    """Short convolution, gated linear recurrence, gated feed-forward layer; (B, L, d) to (B, L, d)."""

    def __init__(self, config: LinearRecurrentConfig) -> None:
        super().__init__()
        width, heads, inner = config.embedding_dim, config.heads, config.heads * config.head_size
        self.heads, self.key_dim, self.kernel = heads, config.key_dim, config.kernel
        self.head_size = config.head_size
        self.drop = Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Parameter(torch.zeros(config.kernel, width))
        self.query_key = nn.Linear(width, 2 * heads * config.key_dim, bias=False)
        self.value_gate = nn.Linear(width, 2 * inner, bias=False)
        self.decay = nn.Linear(width, heads)
        self.gap_decay = nn.Parameter(torch.zeros(BUCKETS, heads))
        self.mixed_scale = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 2 * config.neurons)
        self.feed_out = nn.Linear(config.neurons, width)

    def initialise(self) -> None:
        """Heads that forget at different speeds; what the block adds to its input starts small."""
        with torch.no_grad():
            self.decay.bias.copy_(torch.linspace(_FASTEST, _SLOWEST, self.heads))
            self.decay.weight.mul_(0.1)
            self.out.weight.mul_(0.1)
            self.feed_out.weight.mul_(0.1)

    def forward(self, x: Tensor, gap: Tensor) -> Tensor:
        """`gap` int64 (B, L): the bucket of the time from each event to its question."""
        parts = self._parts(self.norm(x), gap)
        way = mix_chunked if self.training else mix
        return self._finish(x, way(*parts.recurrent).transpose(1, 2).flatten(2), parts.gate)

    def read(self, x: Tensor, gap: Tensor, at: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """The output, (B, L, d) or with `last` only at places `at` int64 (B,), (B, 1, d), and the states (B, s).

        A state is what the event at `at` meets.
        """
        normed = self.norm(x)
        parts = self._parts(normed, gap)
        query, key, value, log_decay = parts.recurrent
        left = memory(key, value, log_decay, at)
        state = torch.cat([self._tail(normed, at), left.flatten(1)], dim=1)
        if not last:
            return self._finish(x, mix(*parts.recurrent).transpose(1, 2).flatten(2), parts.gate), state
        query, key, value = (self._newest(part, at) for part in (query, key, value))
        mixed, _ = mix_step(left, query, key, value, left.new_ones(x.shape[0], self.heads))
        return self._finish(_rows(x, at), mixed.flatten(1)[:, None], _rows(parts.gate, at)), state

    def step(self, state: Tensor, x: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """Output (B, d) and next state from state (B, s), input (B, d) and gap (B,)."""
        kept = (self.kernel - 1) * x.shape[1]
        window = torch.cat([state[:, :kept], self.norm(x)], dim=1).view(x.shape[0], self.kernel, -1)
        rows = F.silu((window * self.convolution.flip(0)).sum(1) + window[:, -1])[:, None]
        parts = self._projected(rows, gap[:, None])
        query, key, value, log_decay = (part.squeeze(2) for part in parts.recurrent)
        left = state[:, kept:].view(x.shape[0], self.heads, self.key_dim, -1)
        mixed, left = mix_step(left, query, key, value, log_decay.exp())
        out = self._finish(x[:, None], mixed.flatten(1)[:, None], parts.gate).squeeze(1)
        return out, torch.cat([window[:, 1:].flatten(1), left.flatten(1)], dim=1)

    def _parts(self, normed: Tensor, gap: Tensor) -> "_Parts":
        return self._projected(self._convolved(normed), gap)

    def _projected(self, rows: Tensor, gap: Tensor) -> "_Parts":
        query, key = F.silu(self.query_key(rows)).chunk(2, dim=-1)
        value, gate = self.value_gate(rows).chunk(2, dim=-1)
        log_decay = F.logsigmoid(self.decay(rows) + self.gap_decay[gap]).clamp_min(_LEAST).transpose(1, 2)
        return _Parts((self._split(query), self._split(key), self._split(value), log_decay), gate)

    def _tail(self, normed: Tensor, at: Tensor) -> Tensor:
        """The kernel - 1 rows before place `at`, oldest first, zeros where there are none, (B, (kernel - 1) d)."""
        padded = F.pad(normed, (0, 0, self.kernel - 1, 0))
        return torch.cat([_rows(padded, at + back) for back in range(self.kernel - 1)], dim=1).flatten(1)

    def _convolved(self, x: Tensor) -> Tensor:
        """A causal depthwise convolution, added to its input: row i sees rows i - kernel + 1 .. i."""
        padded = F.pad(x, (0, 0, self.kernel - 1, 0))
        out = x
        for back in range(self.kernel):
            start = self.kernel - 1 - back
            out = out + padded[:, start : start + x.shape[1]] * self.convolution[back]
        return F.silu(out)

    def _newest(self, part: Tensor, at: Tensor) -> Tensor:
        """Of (B, H, L, k) the rows at places `at`, (B, H, k)."""
        return part.gather(2, at[:, None, None, None].expand(-1, self.heads, 1, part.shape[3])).squeeze(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _finish(self, x: Tensor, mixed: Tensor, gate: Tensor) -> Tensor:
        heads = mixed.view(mixed.shape[0], mixed.shape[1], self.heads, -1)
        normed = F.layer_norm(heads, (self.head_size,), eps=1e-5).flatten(2) * self.mixed_scale
        x = x + self.drop(self.out(normed * F.silu(gate)))
        inner, outer = self.feed_in(self.feed_norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.drop(self.feed_out(inner * F.silu(outer)))
        return out


class LinearRecurrent(nn.Module):
    """Items plus the time that follows each, through recurrent blocks. It is `Carried`."""

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths", "times", "now")

    def __init__(self, config: LinearRecurrentConfig, n_items: int) -> None:
        super().__init__()
        width = config.embedding_dim
        self.config = config
        self.state_size = config.blocks * config.block_state
        self.drop = Dropout(config.dropout)
        self.item = item_table(config.table, n_items, width)
        self.gap = nn.Embedding(BUCKETS, width)
        self.blocks = nn.ModuleList(RecurrentBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.apply(_initialise)
        for block in self.blocks:
            block.initialise()  # type: ignore[operator]

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d)."""
        x, gap = self._embed(inputs)
        for block in self.blocks:
            x = block(x, gap)
        return user_side(self.norm(x), self.config.temperature)

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d)."""
        return self.prefill(inputs)[0]

    def prefill(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """As `Carried.prefill`: vectors (B, d) and states (B, state_size); the last block mixes one row."""
        x, gap = self._embed(inputs)
        at = (inputs.lengths.long() - 1).clamp(min=0)
        states = []
        for i, block in enumerate(self.blocks):
            x, state = block.read(x, gap, at, last=i + 1 == len(self.blocks))  # type: ignore[operator]
            states.append(state)
        return user_side(self.norm(x.squeeze(1)), self.config.temperature), torch.cat(states, dim=1)

    def step(self, state: Tensor, items: Tensor, times: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """As `Stepwise.step`: vectors (B, d) and states (B, state_size)."""
        gap = self._gap(now - times)
        x = self._input(items, gap)
        states = []
        for block, part in zip(self.blocks, state.chunk(len(self.blocks), dim=1), strict=True):
            x, part = block.step(part, x, gap)  # type: ignore[operator]
            states.append(part)
        return user_side(self.norm(x), self.config.temperature), torch.cat(states, dim=1)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or of `rows` (..., d): the input table serves as output table too."""
        return output_vectors(self.item, rows, self.config.temperature)

    def _embed(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        gap = self._gap(asked_at(inputs) - inputs.times)
        dropped: Tensor = self.drop(self._input(inputs.items, gap))
        return dropped, gap

    def _input(self, items: Tensor, gap: Tensor) -> Tensor:
        out: Tensor = self.item(items) * self.item.embedding_dim**0.5 + self.gap(gap)
        return out

    def _gap(self, milliseconds: Tensor) -> Tensor:
        return buckets(milliseconds) if self.config.time else torch.zeros_like(milliseconds)


def _initialise(module: nn.Module) -> None:
    """Linear layers start larger than usual: products of three small ones would vanish before they are normalised."""
    initial.small(module)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
