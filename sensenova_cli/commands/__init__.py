"""The commands: each turns its arguments into requests and hands them to sensenova_cli.turn."""
