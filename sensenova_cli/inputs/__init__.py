"""User input: options, prompts, input pictures, and records of pictures to make again."""
