"""Merge methods: pure functions of a group of arrays, written once for numpy and torch."""

#: name -> where it lives; a new method is one file and one line here.
METHODS = {
    "interpolation": "vlmerge_cli.methods.interpolation:Interpolation",
    "arithmetic": "vlmerge_cli.methods.arithmetic:Arithmetic",
    "regmean": "vlmerge_cli.methods.regmean:RegMean",
}

#: Methods that run the model on data: of ``vlmerge merge`` alone, since they need more than a group.
RUNNING = {"layerwise": "vlmerge_cli.layerwise.layerwise_method:Layerwise"}
