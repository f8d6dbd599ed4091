"""The engine: observe, recommend, swap."""
