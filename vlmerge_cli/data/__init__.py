"""From files on disk to batches: readers, the built-in data set, tokens, transforms, masks, order, loader."""
