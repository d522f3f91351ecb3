"""The commands: configuration, building objects from it, and one file per command."""
