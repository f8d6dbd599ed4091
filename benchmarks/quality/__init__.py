"""Quality on public data sets: one spec a data set and model, one results file a run, one table."""
