"""The world of scenes: what the embedded model was trained on, and the ground truth of its evaluations."""
