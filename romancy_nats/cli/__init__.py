"""The command line. One module per group of commands; nothing outside imports from here."""
