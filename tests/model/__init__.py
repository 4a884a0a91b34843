"""A Promela model of the protocol, one mutant for each guard, and what runs them."""
