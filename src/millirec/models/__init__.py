"""Networks only: one file = one config + one module. `config.ModelConfig` is the registry."""
