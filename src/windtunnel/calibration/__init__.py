"""Fitting the constants of :mod:`windtunnel.cost.calibration` to a user's own measurements, and making such
measurements on the machine at hand."""
