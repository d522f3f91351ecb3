"""What attribution costs, as a ratio to a bare forward pass."""
