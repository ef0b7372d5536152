"""How work is laid on machines: layers, communication and pipeline stages as trees of operators."""
