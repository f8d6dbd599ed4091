"""Facts and arrays: events, histories, catalogues, data sets, splits, and the one featuriser."""
