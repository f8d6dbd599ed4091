"""Losses: what a network is to be good at. `LossConfig` is the union of their configs."""

from millirec.train.losses.binary import BCE, GBCE
from millirec.train.losses.sampled import Sampled
from millirec.train.losses.softmax import FullSoftmax, InBatchSoftmax, SampledSoftmax, full_softmax

LossConfig = FullSoftmax | SampledSoftmax | InBatchSoftmax | BCE | GBCE

__all__ = ["BCE", "GBCE", "FullSoftmax", "InBatchSoftmax", "LossConfig", "Sampled", "SampledSoftmax", "full_softmax"]
