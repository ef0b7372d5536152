"""The best way to run it: search over plans of training and of serving."""
