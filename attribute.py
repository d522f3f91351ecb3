"""Find the neurons that make a model say or draw a concept: `python attribute.py [overrides]`."""

from nam.app.attribute import main

if __name__ == "__main__":
    main()
