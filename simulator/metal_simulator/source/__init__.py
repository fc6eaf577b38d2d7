"""Reading Metal: files, tokens, declarations, and the way back to the user's columns."""
