"""The build that checks: calls of the checker in the IR, and its findings in words."""
