"""Sessions: typed or piped lines become turns and slash commands, while one model stays loaded."""
