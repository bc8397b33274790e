"""Images as archives: made, fetched, put together and taken apart, without a daemon."""
