"""The strict check: what Apple's compiler would reject."""
