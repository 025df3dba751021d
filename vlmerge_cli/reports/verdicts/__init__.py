"""The paper's claims, and what a study says of each."""
