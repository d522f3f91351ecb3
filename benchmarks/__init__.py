"""What the embedded model and the code are measured by."""
