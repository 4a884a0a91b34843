"""Everything that speaks NATS. The only package that imports nats-py; holds no workflow logic."""
