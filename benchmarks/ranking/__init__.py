"""Rankers on MovieLens-1M as click-through rates."""
