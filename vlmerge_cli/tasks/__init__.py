"""Heads, losses and scores, one task a file."""

#: Objectives of pre-training, each a function in the file of its name.
OBJECTIVES = ("itc", "itm", "mlm")

#: What a model can be fine-tuned for and evaluated on: name -> "module:Class".
TASKS = {
    "vqa": "vlmerge_cli.tasks.vqa:Vqa",
    "nlvr2": "vlmerge_cli.tasks.nlvr2:Nlvr2",
    "retrieval": "vlmerge_cli.tasks.retrieval:Retrieval",
    "flickr30k": "vlmerge_cli.tasks.retrieval:Flickr30k",
    "classification": "vlmerge_cli.tasks.classification:Classification",
    "segmentation": "vlmerge_cli.tasks.segmentation:Segmentation",
}

#: What a model can be evaluated on only.
MEASURES = {"itm": "vlmerge_cli.tasks.matching:Matching"}
