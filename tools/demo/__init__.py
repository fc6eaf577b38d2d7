"""The demonstration behind `make demo`: a real model on real sentences, through the staged kernel."""
