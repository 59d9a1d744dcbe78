"""The operating system's side: streams, signals, atomic files and file names."""
