"""Training anew, as a step: what a search for hyper-parameters varies."""

from dataclasses import replace
from pathlib import Path

import msgspec

from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.models.base import NetworkConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.train.config import TrainConfig
from millirec.train.fit import fit
from millirec.train.trainable import check_trainable


class Train(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="train"):
    """Trains a `model`, None = one like the incoming, from nothing on the data that the incoming one learned from.

    Of the incoming checkpoint only the catalogue and the data remain.
    """

    model: ModelConfig | None = None
    train: TrainConfig = TrainConfig()

    @property
    def needs_data(self) -> bool:
        """It learns from events."""
        return True

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """The config of the new model. Raises ConfigError when it cannot be trained so."""
        del n_items
        model = config if self.model is None else self.model
        if not isinstance(model, NetworkConfig):
            kind = str(model.__struct_config__.tag)
            raise ConfigError(f"model: a {kind} is not trained by gradient", "choose a network, such as sasrec")
        build(model, 1)  # refuses what does not fit
        check_trainable(model, self.train, at="")
        return model

    def apply(self, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
        """Train; a killed training is taken up in `folder`."""
        model, dataset = self.rewritten(checkpoint.config, len(checkpoint.catalog)), workshop.dataset_of(checkpoint)
        train = msgspec.structs.replace(self.train, repeats=workshop.repeats)
        made = fit(
            dataset, model, train, workshop.machine, workshop.journal, progress=folder, resume=folder is not None
        )
        return replace(checkpoint, config=model, parameters=made.parameters, metrics=made.metrics)
