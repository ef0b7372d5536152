"""One file per paper: its claim, its setup with the provenance of every figure, baseline, treated run, metric."""
