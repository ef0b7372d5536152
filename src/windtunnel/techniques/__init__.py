"""Published techniques, one small file each: what it is (``about``), its parameters, and what it rewrites.

They are reached by name, through :mod:`windtunnel.scenario.registry` alone.
"""
