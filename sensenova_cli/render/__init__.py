"""Display of progress, think text, answers, tables and errors, on a terminal or in a pipe."""
