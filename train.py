"""Train a part of a model: `python train.py experiment=tiny_gill/<part> [overrides]`."""

from nam.app.train import main

if __name__ == "__main__":
    main()
