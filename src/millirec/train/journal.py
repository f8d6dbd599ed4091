"""Who is told how a training goes: nobody, a terminal, TensorBoard."""

from pathlib import Path
from typing import Protocol


class Journal(Protocol):
    """Told of each batch and of each validation."""

    def epoch(self, number: int, n_batches: int, done: int) -> None:
        """Epoch `number` (from 0) of `n_batches` begins, `done` of them already made before a resume."""

    def batch(self, loss: float) -> None:
        """A batch is done."""

    def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
        """A validation is done; `best` when it is the best so far."""


class Silent:
    """Tells nobody."""

    def epoch(self, number: int, n_batches: int, done: int) -> None:
        """Nothing."""

    def batch(self, loss: float) -> None:
        """Nothing."""

    def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
        """Nothing."""


class TensorBoard:
    """Writes figures for TensorBoard, then passes the word on."""

    def __init__(self, folder: Path, inner: Journal) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and wanted by this class only

        self.inner = inner
        self._writer = SummaryWriter(str(folder))

    def epoch(self, number: int, n_batches: int, done: int) -> None:
        """Pass on."""
        self.inner.epoch(number, n_batches, done)

    def batch(self, loss: float) -> None:
        """Pass on."""
        self.inner.batch(loss)

    def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
        """Write every figure under the number of the epoch."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()
        self.inner.validated(epoch, figures, best=best)
