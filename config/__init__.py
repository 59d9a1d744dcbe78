"""Settings of `sensenova`: schema, layers and profiles. Knows neither the terminal nor tensors."""
