"""What `benchmarks.edits` measures."""
