"""The prompt that stays: lines typed or piped become turns of one session with one resident model."""
