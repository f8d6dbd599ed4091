"""Metrics: pure functions on arrays.

`ranking` (top-k lists), `ctr` (probabilities), `catalog` (what lists do to a catalogue), `bootstrap`
(intervals).
"""
