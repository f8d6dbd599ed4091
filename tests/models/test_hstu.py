"""HSTU: the written-out gradients, time as it is read, and a naive loop beside the real thing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs
from millirec.models.hstu import HSTU, HSTUConfig
from millirec.models.layers import clock
from millirec.models.layers.pointwise import PointwiseBlock, Stripe

HOUR = 3_600_000


def inputs(rows: list[list[int]], now: int = 10 * HOUR, gap: int = HOUR) -> Inputs:
    width = max(len(row) for row in rows)
    items = torch.zeros(len(rows), width, dtype=torch.int32)
    times = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        items[i, : len(row)] = torch.tensor(row)
        times[i, : len(row)] = torch.arange(len(row)) * gap
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    return Inputs(items, lengths, times, torch.full((len(rows),), now))


def network(**fields: object) -> HSTU:
    torch.manual_seed(0)
    config = HSTUConfig(**({"embedding_dim": 8, "max_length": 12, "dropout": 0.0} | fields))  # type: ignore[arg-type]
    model = HSTU(config, 30)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def test_places_ask_at_the_time_of_the_next_event() -> None:
    batch = inputs([[1, 2, 3], [4]], now=99)
    assert clock.asked_at(batch)[0].tolist() == [HOUR, 2 * HOUR, 99]
    assert clock.asked_at(batch)[1, 0].item() == 99


def test_buckets_by_hand() -> None:
    # ln(1000 s) / 0.3 = 23.03; up to a second is 0; beyond the last bucket there is only the last.
    spans = torch.tensor([-5, 0, 1_000, 1_400, 1_000_000, 10**15])
    assert clock.buckets(spans).tolist() == [0, 0, 0, 1, 23, clock.BUCKETS - 1]


def test_training_and_answering_compute_the_same_with_the_same_gradients() -> None:
    model, batch = network(), inputs([[1, 2, 3, 4, 5], [6, 7]])
    gradients = []
    for training in (True, False):
        model.train(training)
        model.zero_grad()
        out = model(batch)
        (out[0].square().sum() + out[1, :2].sin().sum()).backward()
        gradients.append((out.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert len(gradients[0][1]) == len(gradients[1][1]) == len(list(model.parameters()))
    for written_out, automatic in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(written_out, automatic, rtol=1e-4, atol=1e-5)


def test_one_block_against_loops() -> None:
    torch.manual_seed(1)
    block = PointwiseBlock(6, 2, 9, 0.0).eval()
    with torch.no_grad():
        block.time.copy_(torch.randn(clock.BUCKETS))
        block.place.copy_(torch.randn(9))
    x = torch.randn(1, 4, 6)
    bucket = torch.randint(0, clock.BUCKETS, (1, 4, 4))
    distance = (torch.arange(4)[:, None] - torch.arange(4)[None, :]).clamp(min=0)
    bucket = torch.where(torch.arange(4)[:, None] < torch.arange(4)[None, :], clock.BUCKETS, bucket)
    with torch.no_grad():
        gate, value, query, key = F.silu(block.project(block.norm(x[0]))).chunk(4, dim=-1)
        mixed = torch.zeros(4, 6)
        for i in range(4):
            for j in range(i + 1):
                for head in (slice(0, 3), slice(3, 6)):
                    score = query[i, head] @ key[j, head] + block.time[bucket[0, i, j]] + block.place[i - j]
                    mixed[i, head] += F.silu(score) * value[j, head]
        want = x[0] + block.out(block.mixed_norm(mixed) * gate)
        torch.testing.assert_close(block(x, [Stripe(slice(0, 4), bucket, distance)])[0], want)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(1, 30), st.data())
def test_what_comes_later_changes_nothing_before(row: list[int], other: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(row) - 1))
    changed = [*row[:at], other, *row[at + 1 :]]
    with torch.inference_mode():
        first, second = network()(inputs([row])), network()(inputs([changed]))
    torch.testing.assert_close(first[:, :at], second[:, :at])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=2, max_size=4))
def test_padding_and_company_do_not_matter(rows: list[list[int]]) -> None:
    model = network()
    with torch.inference_mode():
        together, every = model.user_vectors(inputs(rows)), model(inputs(rows))
        for i, row in enumerate(rows):
            torch.testing.assert_close(model.user_vectors(inputs([row]))[0], together[i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(every[i, len(row) - 1], together[i], rtol=1e-4, atol=1e-5)


def test_the_time_of_the_question_counts_only_where_it_is_read() -> None:
    soon, late = inputs([[1, 2, 3]], now=2 * HOUR + 1), inputs([[1, 2, 3]], now=900 * HOUR)
    with torch.inference_mode():
        timed, plain = network(), network(time_bias=False)
        assert not torch.allclose(timed.user_vectors(soon), timed.user_vectors(late))
        torch.testing.assert_close(plain.user_vectors(soon), plain.user_vectors(late), rtol=0, atol=0)


def test_a_temperature_makes_scores_cosines() -> None:
    model = network(temperature=0.1)
    with torch.inference_mode():
        lengths = model.user_vectors(inputs([[1, 2]])).norm(dim=1), model.item_vectors()[1:].norm(dim=1)
    np.testing.assert_allclose(lengths[0], 10, rtol=1e-5)
    np.testing.assert_allclose(lengths[1], 1, rtol=1e-5)
    assert torch.equal(model.item_vectors(torch.tensor([3, 5])), model.item_vectors()[[3, 5]])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"heads": 3}, "$.model.heads"),
        ({"max_length": 1}, "$.model.max_length"),
        ({"dropout": 1.0}, "$.model.dropout"),
        ({"temperature": 0.0}, "$.model.temperature"),
        ({"blocks": 0}, "blocks"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HSTUConfig(**fields)  # type: ignore[arg-type]
    assert named in str(caught.value)
