"""What commands write: who may be replaced, how a file appears whole, and who works in a folder."""
