"""Display of progress, think text, answers, pictures, tables and errors, on a terminal or in a pipe."""
