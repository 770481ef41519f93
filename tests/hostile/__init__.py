"""What no client should send, and what a hostile one will: on raw sockets, at random, and in the log."""
