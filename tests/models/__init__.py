"""Tiny random models through transformers: every model in every situation against eager attention."""
