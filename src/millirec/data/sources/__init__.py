"""Readers for the formats that logs come in."""
