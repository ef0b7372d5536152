"""The operator tree and its folds: what a step asks for and how its times compose."""
