"""The quality of the embedded model, section by section."""
