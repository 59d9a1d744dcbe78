"""Settings of `sensenova`: declarations, layers and profiles. This package knows neither the terminal nor tensors."""
