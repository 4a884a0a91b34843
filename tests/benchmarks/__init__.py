"""Speed, measured beside a raw baseline in the same run: `make bench`. No tests live here; nothing imports this."""
