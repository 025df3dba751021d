"""Naming schemes of checkpoint families, as data: one YAML file each."""

#: Built-in layouts in the order in which detection prefers them; each is NAME.yaml in this folder.
LAYOUTS = (
    "vl-merging",
    "vlmo",
    "beit3",
    "flava",
    "siglip",
    "cogvlm",
    "bagel",
    "evev2",
    "mono-internvl",
    "one-peace",
    "flux",
    "qwen-image",
    "cosmos3",
    "higgs-audio",
    "mplug-owl2",
)
