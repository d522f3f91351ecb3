"""The models: one interface (`base`), one family per file, and where their neurons are (`ffn`)."""
