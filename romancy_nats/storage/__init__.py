"""What clients and workers read and write through the ports, each request made again until the server answers (L3)."""
