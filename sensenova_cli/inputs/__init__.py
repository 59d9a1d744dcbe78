"""What a user typed or piped: options, prompts and input pictures."""
