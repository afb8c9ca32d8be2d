"""The harness: data, backbones, the training loop, records, leaderboard and command line."""
