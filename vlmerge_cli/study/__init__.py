"""What joins merging and training."""
