"""The prompt that stays."""
