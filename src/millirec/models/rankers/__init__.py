"""Feature rankers: rows of declared features to the chance of a success. One file = one config + one network."""
