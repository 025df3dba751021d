"""vlmerge: merge the transformers of a vision-language checkpoint into one."""

__version__ = "0.1.0"
