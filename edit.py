"""Change what chosen neurons write, and measure what else changed: `python edit.py [overrides]`."""

from nam.app.edit import main

if __name__ == "__main__":
    main()
