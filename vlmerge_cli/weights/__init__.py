"""Where the numbers of a model come from and go to: start values, other checkpoints, saved models."""
