"""Losses, negatives, the trainer, evaluation."""
