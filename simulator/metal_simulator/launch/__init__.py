"""Running a compiled kernel: its arguments, the request that the runtime reads, the report."""
