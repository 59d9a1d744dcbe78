"""Words and pictures in, token sequences out."""
