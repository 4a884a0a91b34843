"""A worker is a loop that feeds events in and carries commands out. Speaks to the world through `ports` only."""
