"""`Extra`: what is added to the model's scores of some items for one question."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Extra(NamedTuple):
    """`rows` int32 (m,), ascending, and `scores` float32 (m,), none below 0: all other items gain nothing."""

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]

    def of(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """What `rows` (n,) gain, (n,)."""
        if not len(self.rows):
            return np.zeros(len(rows), np.float32)
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        gained: NDArray[np.float32] = np.where(self.rows[at] == rows, self.scores[at], np.float32(0))
        return gained
