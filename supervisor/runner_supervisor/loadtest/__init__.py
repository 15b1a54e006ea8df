"""A quick load test of an endpoint, from outside: what its clients get at so many requests at once."""
