"""The objects' drawings, and where they are from."""
