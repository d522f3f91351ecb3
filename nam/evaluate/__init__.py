"""What answers and scores are worth."""
