"""From activations and a target's directions to a score per neuron; one file a method."""
