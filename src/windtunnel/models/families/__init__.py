"""One function for each ``model_type``: a checked reader of its configuration in, a network out."""
