import pytest

from millirec.train.config import TrainConfig
from millirec.train.schedule import learning_rate


def rates(config: TrainConfig, n_steps: int = 4) -> list[float]:
    """The rate of every step of `epochs` epochs of `n_steps`."""
    return [learning_rate(config, step, step / n_steps) for step in range(config.epochs * n_steps)]


def test_constant_without_a_word() -> None:
    assert set(rates(TrainConfig(epochs=3))) == {1e-3}


def test_warm_up_rises_in_equal_steps_to_the_whole_rate() -> None:
    found = rates(TrainConfig(epochs=2, warmup_steps=5, learning_rate=1.0))
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])


def test_decay_epochs_alone_mean_a_cosine_to_a_tenth() -> None:
    found = rates(TrainConfig(epochs=6, decay_epochs=4, learning_rate=1.0))
    assert found[0] == 1.0
    assert found[8] == pytest.approx(0.55)
    assert found[16:] == pytest.approx([0.1] * 8)


@pytest.mark.parametrize(("kind", "quarter"), [("linear", 0.75), ("cosine", (1 + 2**-0.5) / 2)])
def test_a_schedule_falls_over_all_epochs_to_its_final_share(kind: str, quarter: float) -> None:
    config = TrainConfig(epochs=8, schedule=kind, final_share=0.0, learning_rate=2.0)
    assert learning_rate(config, 8, 2.0) == pytest.approx(2 * quarter)
    assert learning_rate(config, 32, 8.0) == pytest.approx(0.0)
    found = rates(config)
    assert found == sorted(found, reverse=True)
