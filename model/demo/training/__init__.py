"""The training of the demo checkpoint. It is not part of the wheel."""
