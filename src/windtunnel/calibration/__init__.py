"""Fitting the constants of kernels, machines and engines to what was measured."""
