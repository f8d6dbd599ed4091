"""What a peer's lists are judged by: our split, our rank rule."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.rectools import export, ranks_in_lists
from millirec.data.dataset import TEST, TRAIN, VALIDATION
from millirec.data.split import GlobalTime, LeaveLastOut, split, targets
from tests.logs import dataset_of


def ranks(items: list[int], scores: list[float], wanted: int, n_items: int = 50) -> int:
    return int(ranks_in_lists(np.array([items]), np.array([scores]), np.array([wanted]), n_items)[0])


def test_the_rank_is_the_place_behind_all_that_score_the_same() -> None:
    assert ranks([7, 8, 9], [3.0, 2.0, 1.0], 8) == 2
    assert ranks([7, 8, 9, 5], [3.0, 3.0, 1.0, 0.5], 7) == 2
    assert ranks([7, 8, 9], [3.0, 2.0, 1.0], 9) == 3
    assert ranks([7, 8, 9], [3.0, 2.0, 1.0], 4) == 50


def test_a_tie_that_reaches_the_end_of_a_list_is_last() -> None:
    assert ranks([7, 8, 9], [1.0, 1.0, 1.0], 7) == 50
    assert ranks([7, 8, 9], [2.0, 1.0, 1.0], 7) == 1


def test_a_short_list_is_filled_with_misses() -> None:
    low = -np.inf
    assert ranks([7, 0, 0], [1.0, low, low], 7) == 1
    assert ranks([0, 0, 0], [low, low, low], 7) == 50


def test_the_export_is_our_split(tmp_path: Path) -> None:
    dataset = split(dataset_of([[1, 2, 3, 4], [2, 3, 1], [4, 1]], 4), LeaveLastOut())
    asked = targets(dataset, TEST)
    export(dataset, asked, tmp_path / "split.npz")
    with np.load(tmp_path / "split.npz") as found:
        roles = np.select([found["training"], found["validating"]], [TRAIN, VALIDATION], TEST)
        assert roles.tolist() == dataset.sequences.roles.tolist()
        assert found["items"].tolist() == dataset.sequences.items.tolist()
        assert found["asked"].tolist() == [1, 2]
        assert found["asked_times"].tolist() == [3000, 2000]
        assert (found["history"] == (roles != TEST)).all()


def test_several_targets_a_user_are_refused(tmp_path: Path) -> None:
    dataset = split(dataset_of([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] * 4), GlobalTime(validation=0.3, test=0.3))
    with pytest.raises(SystemExit, match="leave-last-out"):
        export(dataset, targets(dataset, TEST), tmp_path / "split.npz")
