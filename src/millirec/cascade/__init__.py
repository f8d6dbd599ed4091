"""The cascade: sources -> filters -> scorers -> selectors. Pure functions on arrays; no state of its own."""
