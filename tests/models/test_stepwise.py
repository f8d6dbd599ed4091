"""One event at a time says the same as the whole history."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.encode import encode
from millirec.models.base import Inputs, Stepwise
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.linear_recurrent import LinearRecurrentConfig
from tests.networks import N_ITEMS, network, small

NETWORKS: dict[str, Any] = {
    "gru": network(small(GRU4RecConfig)),
    "gru-cosine": network(small(GRU4RecConfig, layers=1, temperature=0.05)),
    "lstm": network(small(GRU4RecConfig, cell="lstm")),
    "linear-recurrent": network(small(LinearRecurrentConfig)),
}
# item, and milliseconds until the next event or the question
EVENTS = st.lists(st.tuples(st.integers(1, N_ITEMS), st.integers(0, 10**10)), min_size=1, max_size=60)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=25, deadline=None)
@given(histories=st.lists(EVENTS, min_size=1, max_size=3))
def test_steps_end_where_the_whole_history_does(name: str, histories: list[list[tuple[int, int]]]) -> None:
    module = NETWORKS[name]
    for events in histories:
        items, gaps = np.array(events).T
        after = np.cumsum(gaps) + 1_700_000_000_000
        times = np.concatenate([[1_700_000_000_000], after[:-1]])
        state = torch.zeros(1, module.state_size)
        with torch.inference_mode():
            for place in range(len(items)):
                arrays = (torch.from_numpy(x[place : place + 1]) for x in (items, times, after))
                vector, state = module.step(state, *arrays)
                if place not in (0, len(items) // 2, len(items) - 1):
                    continue
                rows = items[: place + 1].astype(np.int32)
                whole = Inputs.of(encode([rows], [times[: place + 1]], 60, [after[place]]))
                want = module.user_vectors(whole)
                torch.testing.assert_close(vector, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_states_is_its_rows(name: str) -> None:
    module = NETWORKS[name]
    assert isinstance(module, Stepwise)
    torch.manual_seed(1)
    state, items = torch.randn(4, module.state_size), torch.tensor([1, 9, 9, 30])
    times = torch.tensor([0, 5_000, 60_000, 10**9])
    with torch.inference_mode():
        vectors, states = module.step(state, items, times, times + 7_000)
        assert states.shape == state.shape
        for i in range(4):
            one = slice(i, i + 1)
            vector, after = module.step(state[one], items[one], times[one], times[one] + 7_000)
            torch.testing.assert_close(vector, vectors[one], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(after, states[one], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_before_the_option_still_loads() -> None:
    names = {
        "item.weight",
        "project.weight",
        "project.bias",
        *(f"gru.{part}_{side}_l{i}" for part in ("weight", "bias") for side in ("ih", "hh") for i in range(2)),
    }
    assert set(NETWORKS["gru"].state_dict()) == names
