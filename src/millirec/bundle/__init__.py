"""`Bundle`: what is deployed. `pack` makes one from a checkpoint, `open_bundle` verifies and reads it.

A bundle is a folder of plain data: ONNX graphs, one file with the arrays of graphs and index, the catalogue, and a
manifest in JSON. Nothing in it is ever executed, beyond running the graphs. Opening needs no torch; packing does.
"""

from millirec.bundle.counts import Beside
from millirec.bundle.ensemble import pack_ensemble
from millirec.bundle.foreign import ForeignConfig, ForeignItems, pack_graph
from millirec.bundle.manifest import FileEntry, Manifest
from millirec.bundle.packing import PackConfig, pack
from millirec.bundle.rank_packing import RankerPart
from millirec.bundle.read import Bundle, open_bundle

__all__ = [
    "Beside",
    "Bundle",
    "FileEntry",
    "ForeignConfig",
    "ForeignItems",
    "Manifest",
    "PackConfig",
    "RankerPart",
    "open_bundle",
    "pack",
    "pack_ensemble",
    "pack_graph",
]
