"""Requests over time on one engine: how batches form, and what memory holds."""
