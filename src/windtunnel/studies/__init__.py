"""Papers' claims, run: published against predicted."""
