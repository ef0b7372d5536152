"""Several engines as one service: routing, pools, transfers, failures, scaling."""
