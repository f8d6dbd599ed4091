"""Other libraries trained on the same split on the same machine, each in an environment of its own."""
