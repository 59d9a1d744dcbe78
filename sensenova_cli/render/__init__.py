"""What people see: progress, think text, answers and errors on a terminal or in a pipe."""
