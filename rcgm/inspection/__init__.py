"""What can be known of a run before it is made: how far its derivatives can be trusted, and its peak memory."""
