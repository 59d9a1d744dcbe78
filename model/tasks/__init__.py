"""One generator of events per kind of request."""
