"""What is measured, against what, and the last results. See README.md in this folder."""
