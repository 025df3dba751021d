"""A report as files: one file a format."""
