"""Side-by-side measurements of the front. `make bench` runs them; each module says what it is for."""
