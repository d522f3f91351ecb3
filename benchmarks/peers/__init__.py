"""The same jobs by other libraries, each in an environment of its own that knows nothing of this project."""
