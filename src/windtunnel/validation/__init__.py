"""Measured runs and the error against them."""

from windtunnel.validation.validate import Validation, validate

__all__ = ["Validation", "validate"]
