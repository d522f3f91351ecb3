"""Run a model on the prompts of configs/attribute.yaml: `python attribute.py [overrides]`."""

from nam.app.attribute import main

if __name__ == "__main__":
    main()
