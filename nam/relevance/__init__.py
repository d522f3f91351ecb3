"""Relevance: from the region of a drawn picture back to the hidden states that the generator read."""
