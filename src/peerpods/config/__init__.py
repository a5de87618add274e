"""Options and their check: flag, then environment, then TOML file, then default."""
