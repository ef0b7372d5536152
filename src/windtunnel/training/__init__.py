"""A training step over time and memory, and a whole run: schedules, failures, checkpoints."""
