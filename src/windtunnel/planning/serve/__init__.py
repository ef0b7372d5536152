"""``plan serve``: the best service for a workload and an SLO."""
