"""The program, which ``vlmerge`` and ``python -m vlmerge_cli`` start, and torchrun can too."""

import gc


def start() -> None:
    """Run the command line. Until a command is loaded nothing that was made is garbage, so nothing looks for any."""
    gc.disable()
    from vlmerge_cli.cli import main

    main()


if __name__ == "__main__":
    start()
