"""The machine's service manager: what it is told, what it hands over, and how it comes to know of us."""
