"""Requests and results as data: options, layouts, plans, engine profiles, and every check that a user can fail."""
