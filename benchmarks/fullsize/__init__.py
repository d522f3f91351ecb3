"""A GILL of the published sizes on an accelerator, in absolute times."""
