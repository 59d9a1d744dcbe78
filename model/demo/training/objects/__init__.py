"""The drawings of the objects, and the script that makes them from a font."""
