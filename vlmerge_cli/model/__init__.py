"""The vision-language transformer in its five architectures."""
