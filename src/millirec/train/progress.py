"""`Progress`: all that a training needs to go on after a kill, on disk without pickle."""

from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from millirec.data.errors import ArtifactError
from millirec.data.folder import new_folder, settle


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the training's history; `figures`: of the validation of a feature ranker."""

    epoch: int
    loss: float
    ndcg_10: float | None
    seconds: float
    figures: dict[str, float] = {}


class Progress(msgspec.Struct, kw_only=True):
    """Where a training stands. `key` is a hash of everything that decides its course.

    `step` counts within the epoch, `updates` all steps of the optimizer so far.
    """

    key: str
    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    best: float = -1.0
    best_epoch: int = -1
    stale: int = 0
    seconds: float = 0.0
    finished: bool = False
    history: list[Epoch] = []


def save(
    folder: Path,
    progress: Progress,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: dict[str, dict[str, Tensor]],
) -> None:
    """Write everything into a new folder that then takes the place of the old one.

    `kept`: sets of parameters by name, such as "best" and "average".
    """
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for kind, values in kept.items():
        tensors |= {f"kept.{kind}.{name}": value for name, value in values.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with new_folder(folder) as new:
        save_file(tensors, new / "tensors.safetensors")
        (new / "progress.json").write_bytes(msgspec.json.format(msgspec.json.encode(progress), indent=1))


def load(
    folder: Path, key: str, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, dict[str, Tensor]]]:
    """Restore network, optimizer and random state; returns the progress and the sets of parameters that were kept.

    Raises ArtifactError when the folder is damaged or belongs to another run.
    """
    settle(folder)
    try:
        progress = msgspec.json.decode((folder / "progress.json").read_bytes(), type=Progress)
        tensors = load_file(folder / "tensors.safetensors")
    except (OSError, SafetensorError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{folder}: cannot resume ({error})", "start anew without --resume") from error
    if progress.key != key:
        raise ArtifactError(
            f"{folder}: belongs to a run with other settings or data",
            "restore them, or start anew without --resume",
        )
    network.load_state_dict(_under(tensors, "network."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        number, field = name.split(".", 1)
        state.setdefault(int(number), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    kept = _under(tensors, "kept.")
    return progress, {kind: _under(kept, f"{kind}.") for kind in {name.split(".", 1)[0] for name in kept}}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
