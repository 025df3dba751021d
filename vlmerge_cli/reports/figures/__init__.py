"""The paper's tables and figures, with a study's numbers beside its own."""
