"""`RankerConfig`: the union of all configs of feature rankers. The union is the registry."""

from torch import nn

from millirec.data.features import Schema
from millirec.models.layers.rounded import round_linears
from millirec.models.rankers.autoint import AutoInt, AutoIntConfig
from millirec.models.rankers.dcnv2 import DCNv2, DCNv2Config
from millirec.models.rankers.deepfm import DeepFM, DeepFMConfig
from millirec.models.rankers.din import DIN, DINConfig
from millirec.models.rankers.dnn import DNN, DNNConfig
from millirec.models.rankers.fgcnn import FGCNN, FGCNNConfig
from millirec.models.rankers.fields import round_tables
from millirec.models.rankers.finalmlp import FinalMLP, FinalMLPConfig
from millirec.models.rankers.finalnet import FinalNet, FinalNetConfig
from millirec.models.rankers.fm import FM, FMConfig
from millirec.models.rankers.lr import LR, LRConfig
from millirec.models.rankers.mmoe import MMoE, MMoEConfig
from millirec.models.rankers.trees import Trees, TreesConfig
from millirec.models.rankers.wide_deep import WideDeep, WideDeepConfig

RankerConfig = (
    LRConfig
    | FMConfig
    | DNNConfig
    | WideDeepConfig
    | DeepFMConfig
    | DCNv2Config
    | FGCNNConfig
    | FinalMLPConfig
    | FinalNetConfig
    | AutoIntConfig
    | DINConfig
    | MMoEConfig
    | TreesConfig
)


def build_ranker(config: RankerConfig, schema: Schema) -> nn.Module:
    """The network that a config describes, over the features of a schema, freshly initialised."""
    network = _network(config, schema)
    round_linears(network, config.weights)
    if config.table_bits is not None:
        round_tables(network, config.table_bits)
    return network


def _network(config: RankerConfig, schema: Schema) -> nn.Module:
    match config:
        case LRConfig():
            return LR(config, schema)
        case FMConfig():
            return FM(config, schema)
        case DNNConfig():
            return DNN(config, schema)
        case WideDeepConfig():
            return WideDeep(config, schema)
        case DeepFMConfig():
            return DeepFM(config, schema)
        case DCNv2Config():
            return DCNv2(config, schema)
        case FGCNNConfig():
            return FGCNN(config, schema)
        case FinalMLPConfig():
            return FinalMLP(config, schema)
        case FinalNetConfig():
            return FinalNet(config, schema)
        case AutoIntConfig():
            return AutoInt(config, schema)
        case DINConfig():
            return DIN(config, schema)
        case MMoEConfig():
            return MMoE(config, schema)
        case TreesConfig():
            return Trees(config, schema)
