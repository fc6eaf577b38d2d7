"""python -m metal_simulator: check, run and report."""
