"""From one trained model to smaller and faster ones: (Checkpoint, config, data) -> Checkpoint, chained in a recipe."""
