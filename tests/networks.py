"""Small untrained networks of every kind, far from the small numbers of a fresh one."""

from typing import Any

import msgspec
import torch

from millirec.models.config import build

N_ITEMS = 30
SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 12, "heads": 2, "blocks": 2, "layers": 2, "max_length": 14}


def small(kind: type[Any], **more: Any) -> Any:
    """A config with the small fields that its kind has, and `more`."""
    names = {field.name for field in msgspec.structs.fields(kind)}
    return kind(**{name: value for name, value in SMALL.items() if name in names} | more)


def network(config: Any) -> Any:
    """Over `N_ITEMS` items, in evaluation mode."""
    torch.manual_seed(0)
    module = build(config, N_ITEMS).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return module
