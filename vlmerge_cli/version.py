"""The version of this tool, for recipes and ``--version``."""

__version__ = "0.1.0"
