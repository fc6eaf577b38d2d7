"""From Metal to what clang reads: edits of the text that keep every line where it was."""
