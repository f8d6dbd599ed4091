"""millirec: from an interaction log to a deep recommender that answers in about a millisecond."""

__version__ = "0.1.0"
