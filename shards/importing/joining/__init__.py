"""Tables beside the table of utterances: people's votes by key, and demographics by speaker."""
