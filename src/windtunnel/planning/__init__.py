"""The planner: the best way to train or serve a model, found by search."""
