"""Random numbers of a question: the same for the same seed and request id, in every process and at every time."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ConfigError


def uniform(seed: int, request_id: str, n: int) -> NDArray[np.float64]:
    """`n` independent numbers of [0, 1)."""
    digest = blake2b(b"%d\0" % seed + request_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest))).random(n)


def check_seed(kind: str, seed: int) -> None:
    """Raises ConfigError for a seed below 0."""
    if seed < 0:
        raise ConfigError(f'$.cascade.selectors ("{kind}").seed = {seed}', "choose 0 or more")
