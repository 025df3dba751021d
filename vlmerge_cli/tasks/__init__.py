"""Heads, losses and scores, one task a file."""

#: Objectives of pre-training: name -> where it lives.
OBJECTIVES = {
    "itc": "vlmerge_cli.tasks.itc:itc",
    "itm": "vlmerge_cli.tasks.itm:itm",
    "mlm": "vlmerge_cli.tasks.mlm:mlm",
}
