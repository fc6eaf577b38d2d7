"""Checks of arguments, before anything runs."""
