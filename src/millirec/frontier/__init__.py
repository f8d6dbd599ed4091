"""Measuring bundles through the engine that serves them."""
