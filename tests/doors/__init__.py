"""Other libraries' functions on this kernel."""
