"""The linear recurrence: three ways to one result, and single steps that equal the whole path."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, Stepwise
from millirec.models.export import export_step, step_parity_error
from millirec.models.layers import recurrence
from millirec.models.linear_recurrent import LinearRecurrent, LinearRecurrentConfig


def network(**fields: object) -> LinearRecurrent:
    torch.manual_seed(0)
    small = {"embedding_dim": 8, "heads": 2, "key_dim": 3, "max_length": 12, "dropout": 0.0}
    model = LinearRecurrent(LinearRecurrentConfig(**(small | fields)), 30)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def random_parts(length: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(length)
    query, key = torch.randn(2, 2, 3, length, 4, dtype=torch.float64)
    value = torch.randn(2, 3, length, 5, dtype=torch.float64)
    return query, key, value, F.logsigmoid(3 * torch.randn(2, 3, length, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40))
def test_pairs_chunks_and_steps_agree(length: int, chunk: int) -> None:
    query, key, value, log_decay = random_parts(length)
    whole = recurrence.mix(query, key, value, log_decay)
    torch.testing.assert_close(recurrence.mix_chunked(query, key, value, log_decay, chunk), whole)
    state = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    for i in range(length):
        parts = (query[:, :, i], key[:, :, i], value[:, :, i], log_decay[:, :, i].exp())
        out, state = recurrence.mix_step(state, *parts)
        torch.testing.assert_close(out, whole[:, :, i])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.data())
def test_the_memory_of_a_history_is_what_steps_leave(length: int, data: st.DataObject) -> None:
    query, key, value, log_decay = random_parts(length)
    at = data.draw(st.integers(0, length - 1))
    state = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    for i in range(at):
        _, state = recurrence.mix_step(state, query[:, :, i], key[:, :, i], value[:, :, i], log_decay[:, :, i].exp())
    torch.testing.assert_close(recurrence.memory(key, value, log_decay, torch.tensor([at, at])), state)


def test_the_recurrence_by_hand() -> None:
    # One head, k = v = 1: S = 0; o1 = 2*3*5 = 30, S = .5*15 = 7.5; o2 = 1*(7.5 + 4*1) = 11.5
    one = [torch.tensor(numbers).view(1, 1, 2, 1) for numbers in ([2.0, 1.0], [3.0, 4.0], [5.0, 1.0])]
    out = recurrence.mix(*one, torch.tensor([0.5, 0.9]).log().view(1, 1, 2))
    torch.testing.assert_close(out.flatten(), torch.tensor([30.0, 11.5]))


def test_a_strong_decay_neither_overflows_nor_loses_the_gradient() -> None:
    query, key, value, _ = (part.float() for part in random_parts(64))
    log_decay = torch.full((2, 3, 64), -6.0, requires_grad=True)
    out = recurrence.mix_chunked(query, key, value, log_decay, 32)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert log_decay.grad is not None
    assert torch.isfinite(log_decay.grad).all()


histories = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 10**9)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(histories, st.integers(0, 10**10))
def test_single_steps_equal_the_whole_path(events: list[tuple[int, int]], wait: int) -> None:
    model = network()
    items = torch.tensor([[item for item, _ in events]], dtype=torch.int32)
    times = torch.tensor([[gap for _, gap in events]]).cumsum(1)
    now = times[:, -1] + wait
    state = torch.zeros(1, model.state_size)
    with torch.inference_mode():
        for i in range(len(events)):
            asked = times[:, i + 1] if i + 1 < len(events) else now
            vector, state = model.step(state, items[:, i], times[:, i], asked)
        whole, left = model.prefill(Inputs(items, torch.tensor([len(events)]), times, now))
        again, after = model.step(left, items[:, -1], times[:, -1], now)
    torch.testing.assert_close(vector, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after, state, rtol=1e-4, atol=1e-4)


def test_training_and_answering_compute_the_same() -> None:
    model = network()
    items = torch.randint(1, 31, (3, 12), dtype=torch.int32)
    batch = Inputs(items, torch.tensor([12, 5, 1]), torch.arange(12).repeat(3, 1) * 10**6, torch.full((3,), 10**8))
    with torch.inference_mode():
        answering = model(batch)
        torch.testing.assert_close(model.train()(batch), answering, rtol=1e-4, atol=1e-5)


def test_later_events_change_nothing_before() -> None:
    model = network()
    items = torch.randint(1, 31, (1, 12), dtype=torch.int32)
    times, now = torch.arange(12)[None] * 10**6, torch.tensor([10**8])
    changed = items.clone()
    changed[0, 7:] = 1
    with torch.inference_mode():
        first = model(Inputs(items, torch.tensor([12]), times, now))
        second = model(Inputs(changed, torch.tensor([12]), times, now))
    torch.testing.assert_close(first[:, :7], second[:, :7])
    assert not torch.allclose(first[:, 7:], second[:, 7:])


def test_the_step_as_a_graph(tmp_path: Path) -> None:
    model = network()
    assert isinstance(model, Stepwise)
    graph = export_step(model, 30)
    assert step_parity_error(model, graph, 30, 12) < 1e-4


def test_another_network_is_told_from_the_graph(tmp_path: Path) -> None:
    model = network()
    graph = export_step(model, 30)
    with torch.no_grad():
        model.blocks[0].gap_decay.add_(1.0)  # type: ignore[operator]
    assert step_parity_error(model, graph, 30, 12) > 1e-3


def test_the_default_state_fits_in_8_kilobytes() -> None:
    config = LinearRecurrentConfig()
    assert 4 * LinearRecurrent(config, 10).state_size == 4 * config.blocks * config.block_state <= 8192


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"key_dim": 64}, "the state takes"),
        ({"heads": 5}, "$.model.heads"),
        ({"kernel": 0}, "kernel"),
        ({"max_length": 1}, "$.model.max_length"),
        ({"temperature": -1.0}, "$.model.temperature"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LinearRecurrentConfig(**fields)  # type: ignore[arg-type]
    assert named in str(caught.value)
