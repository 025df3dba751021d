"""``python -m vlmerge_cli``, which torchrun can start too."""

from vlmerge_cli.cli import main

if __name__ == "__main__":
    main()
