"""The interface to the operating system: standard streams, signals, atomic files, and text from file names."""
