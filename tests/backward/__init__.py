"""The backward kernels and their planner, beside float64."""
