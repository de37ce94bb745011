"""Where the cycles go: profiles, tables and comparisons."""
