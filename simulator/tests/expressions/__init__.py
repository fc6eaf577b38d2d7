"""Random Metal programs, whose results NumPy computes beside the simulator. See __main__.py for the command."""
