"""`ModelConfig`: the union of all model configs. The union is the registry."""

from torch import nn

from millirec.data.errors import ConfigError
from millirec.models.base import NetworkConfig
from millirec.models.bert4rec import BERT4Rec, BERT4RecConfig
from millirec.models.caser import Caser, CaserConfig
from millirec.models.ease import EASE, EASEConfig
from millirec.models.gru4rec import GRU4Rec, GRU4RecConfig
from millirec.models.hstu import HSTU, HSTUConfig
from millirec.models.item_knn import ItemKNN, ItemKNNConfig
from millirec.models.layers.rounded import round_linears
from millirec.models.linear_recurrent import LinearRecurrent, LinearRecurrentConfig
from millirec.models.markov import Markov, MarkovConfig
from millirec.models.nextitnet import NextItNet, NextItNetConfig
from millirec.models.popularity import Popularity, PopularityConfig
from millirec.models.sasrec import SASRec, SASRecConfig
from millirec.models.vmis_knn import VMISKNN, VMISKNNConfig

ModelConfig = (
    SASRecConfig
    | BERT4RecConfig
    | HSTUConfig
    | LinearRecurrentConfig
    | GRU4RecConfig
    | NextItNetConfig
    | CaserConfig
    | PopularityConfig
    | MarkovConfig
    | ItemKNNConfig
    | VMISKNNConfig
    | EASEConfig
)


def build(config: ModelConfig, n_items: int) -> nn.Module:
    """The network that a config describes, over a catalogue of `n_items` (rows 1..n), freshly initialised."""
    if n_items < 1:
        raise ConfigError("a model needs at least one item", "check the data")
    network = _network(config, n_items)
    if isinstance(config, NetworkConfig):
        round_linears(network, config.weights)
    return network


def _network(config: ModelConfig, n_items: int) -> nn.Module:
    match config:
        case SASRecConfig():
            return SASRec(config, n_items)
        case BERT4RecConfig():
            return BERT4Rec(config, n_items)
        case HSTUConfig():
            return HSTU(config, n_items)
        case LinearRecurrentConfig():
            return LinearRecurrent(config, n_items)
        case GRU4RecConfig():
            return GRU4Rec(config, n_items)
        case NextItNetConfig():
            return NextItNet(config, n_items)
        case CaserConfig():
            return Caser(config, n_items)
        case PopularityConfig():
            return Popularity(config, n_items)
        case MarkovConfig():
            return Markov(config, n_items)
        case ItemKNNConfig():
            return ItemKNN(config, n_items)
        case VMISKNNConfig():
            return VMISKNN(config, n_items)
        case EASEConfig():
            return EASE(config, n_items)


def max_length(config: ModelConfig) -> int:
    """How many events of a history the model reads."""
    return 1 if isinstance(config, PopularityConfig | MarkovConfig) else config.max_length
