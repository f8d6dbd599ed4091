"""The HTTP server: JSON in, JSON out."""
