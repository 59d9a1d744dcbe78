"""How the demo checkpoint was made. Not in the wheel."""
